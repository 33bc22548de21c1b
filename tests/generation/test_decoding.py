from itertools import pairwise

import pytest
import torch

from tfkit.errors import DataError, ModelError
from tfkit.generation.decoding import generate
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.recipe.schema import GenerationSection

FAMILIES = {
    "gpt2": {
        "position": {"kind": "learned"},
        "norm": {"kind": "layer"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": "gelu_tanh", "bias": True},
        "head": {"tied": True},
        "num_heads": 3,
    },
    "llama": {
        "position": {"kind": "rotary"},
        "norm": {"kind": "rms"},
        "mlp": {"activation": "silu", "gated": True},
        "head": {"tied": False},
        "num_heads": 6,
        "num_kv_heads": 2,
    },
}
PROMPTS = [[5, 9, 2], [40], [7, 7, 7, 30, 1, 2, 3, 11, 19, 4, 6], [13, 40, 22, 8, 1, 36], [50, 49]]


def tiny_model(family: str, context_length: int = 40) -> Transformer:
    sizes = {"vocab_size": 53, "context_length": context_length, "decoder_layers": 2, "dim": 24, "hidden_dim": 44}
    model = build(ModelConfig.model_validate(FAMILIES[family] | sizes | {"init": {"std": 0.3}}), seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and not name.endswith("norm.weight"):
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def greedy(n: int = 20, **changes) -> GenerationSection:
    return GenerationSection(temperature=0, max_new_tokens=n, **changes)


@torch.no_grad()
def without_cache(model, prompt, n):
    ids = list(prompt)
    for _ in range(min(n, model.config.context_length - len(prompt))):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_cached_decoding_is_the_full_forward(model):
    for prompt in PROMPTS:
        [completion] = generate(model, [prompt], greedy())
        assert completion.ids == without_cache(model, prompt, 20)
        assert completion.finish == "length"


@pytest.mark.parametrize("settings", [greedy(), GenerationSection(temperature=1.3, top_k=20, top_p=0.95, max_new_tokens=20, seed=8)])
def test_a_batch_gives_what_each_prompt_gives_alone(model, settings):
    alone = [generate(model, [prompt], settings, first_row=i)[0] for i, prompt in enumerate(PROMPTS)]
    assert generate(model, PROMPTS, settings) == alone
    assert len({tuple(completion.ids) for completion in alone}) == len(PROMPTS)


@pytest.mark.parametrize("settings", [greedy(99), GenerationSection(temperature=1.0, max_new_tokens=99)])
def test_every_row_may_fill_the_context_whatever_stands_beside_it(model, settings):
    prompts = [[1] * 39, [2], [3] * 30, [4] * 8, [5] * 38]
    alone = [generate(model, [prompt], settings, first_row=i)[0] for i, prompt in enumerate(prompts)]
    batch = generate(model, prompts, settings)
    assert [len(completion.ids) for completion in batch] == [1, 39, 10, 32, 2]
    assert batch == alone


def test_rows_that_stop_leave_the_others_as_they_were(model):
    alone = [without_cache(model, prompt, 20) for prompt in PROMPTS]
    ends = [3, 0, 19, 1, 7]  # the place of the token that ends each row
    calls = []

    def on_token(row, token):
        calls.append((row, token))
        return sum(row == r for r, _ in calls) == ends[row] + 1

    batch = generate(model, PROMPTS, greedy(), on_token=on_token)
    assert [completion.ids for completion in batch] == [ids[: end + 1] for ids, end in zip(alone, ends, strict=True)]
    assert {completion.finish for completion in batch} == {"stop"}
    assert [token for row, token in calls if row == 2] == alone[2]


def test_eos_ends_a_row_and_is_not_part_of_it(model):
    expected = without_cache(model, PROMPTS[0], 20)
    eos = expected[6]
    completions = generate(model, PROMPTS, greedy(), eos_ids={eos, 52})
    assert completions[0].ids == expected[: expected.index(eos)]
    assert completions[0].finish == "stop"
    assert all(eos not in completion.ids for completion in completions)


def test_finished_rows_are_no_longer_computed():
    model = tiny_model("gpt2")
    sizes = []
    model.embedding.register_forward_hook(lambda _module, args, _out: sizes.append(tuple(args[0].shape)))
    generate(model, [[1]] * 8, greedy(30), on_token=lambda row, _token: row < 7)
    assert sizes[0] == (8, 1)
    assert set(sizes[1:]) == {(1, 1)}
    assert len(sizes) == 30


def test_draws_depend_on_seed_and_row(model):
    def drawn(seed, first_row=0):
        settings = GenerationSection(max_new_tokens=20, seed=seed)
        return [completion.ids for completion in generate(model, [[5, 6]] * 4, settings, first_row=first_row)]

    rows = [*drawn(1), *drawn(2), *drawn(1, 4)]
    assert drawn(1) == rows[:4]
    assert len(set(map(tuple, rows))) == 12


def test_the_training_mode_is_put_back(model):
    for training in (True, False):
        model.train(training)
        generate(model, [[1]], greedy(2))
        assert model.training is training
        assert model(torch.tensor([[1]])).hidden.requires_grad


def test_dropout_is_off():
    changes = {"dropout": {"embedding": 0.5, "attention": 0.5, "residual": 0.5}, "vocab_size": 53, "context_length": 40, "dim": 24}
    model = build(ModelConfig.model_validate(FAMILIES["gpt2"] | {"decoder_layers": 2, "init": {"std": 0.3}} | changes), seed=3)
    assert len({tuple(generate(model.train(), [[4, 5]], greedy())[0].ids) for _ in range(3)}) == 1


def test_an_interruption_while_prompts_are_read_is_noticed_between_modules(model):
    """A long prompt takes minutes; and nothing of the interruption stays with the model."""
    asked = iter([False] * 4 + [True])
    batch = generate(model, PROMPTS, greedy(), should_stop=lambda: next(asked))
    assert [(completion.ids, completion.finish) for completion in batch] == [([], "interrupted")] * len(PROMPTS)
    assert next(asked, "none left") == "none left"
    assert generate(model, PROMPTS, greedy()) == generate(model, PROMPTS, greedy(), should_stop=lambda: False)


def test_an_interruption_keeps_what_was_made(model):
    made: list[int] = []
    batch = generate(
        model,
        PROMPTS,
        greedy(),
        on_token=lambda row, token: made.append(row),
        should_stop=lambda: len(made) == 5 * len(PROMPTS),
    )
    assert [(len(completion.ids), completion.finish) for completion in batch] == [(5, "interrupted")] * 5
    assert all(a.ids == without_cache(model, prompt, 5) for a, prompt in zip(batch, PROMPTS, strict=True))


def test_prompts_that_cannot_be_continued(model):
    with pytest.raises(DataError, match="prompt 2 has no tokens"):
        generate(model, [[1], []], greedy())
    with pytest.raises(DataError, match=r"prompt 12 has 40 tokens.*context holds 40.*at most 39"):
        generate(model, [[1], [1] * 40], greedy(), first_row=10)
    assert generate(model, [], greedy()) == []


def test_weights_that_are_not_finite(model):
    with torch.no_grad():
        model.decoder.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        generate(model, [[1]], greedy())


def test_no_token_is_computed_twice(model):
    columns = []
    model.embedding.register_forward_hook(lambda _module, args, _out: columns.append(args[0].shape[1]))
    generate(model, PROMPTS, greedy())
    assert columns == [max(map(len, PROMPTS))] + [1] * 19
    assert all(a >= b for a, b in pairwise(columns))
