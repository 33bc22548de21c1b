from collections import Counter
from functools import partial

import hypothesis
import pytest
import their_writers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_writers import DECODERS, ENCODER_DECODERS, PROMPTS, START, WRITERS, greedy, tiny_model, without_cache

import tfkit.generation.batch
import tfkit.generation.decoding
from tfkit.errors import DataError, ModelError
from tfkit.generation.decoding import generate as generate_from
from tfkit.hub import load
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.recipe.schema.output_sections import GenerationSection

generate = partial(generate_from, start_id=START)

SETTINGS = [
    greedy(),
    greedy(repetition_penalty=1.5, no_repeat_ngram=2),
    GenerationSection(temperature=1.3, top_k=20, top_p=0.95, min_p=0.01, max_new_tokens=20, seed=8),
    GenerationSection(num_beams=3, max_new_tokens=20, repetition_penalty=1.5, no_repeat_ngram=2),
]


@pytest.fixture(params=WRITERS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(params=DECODERS)
def decoder(request):
    return tiny_model(request.param)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_batch_gives_what_each_prompt_gives_alone(model, settings):
    alone = [generate(model, [prompt], settings, first_row=i)[0] for i, prompt in enumerate(PROMPTS)]
    assert generate(model, PROMPTS, settings) == alone
    assert len({tuple(completion.ids) for completion in alone}) == len(PROMPTS)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("settings", [greedy(99), GenerationSection(temperature=1.0, max_new_tokens=99)])
def test_every_row_may_fill_the_context_whatever_the_other_rows(decoder, settings):
    prompts = [[1] * 39, [2], [3] * 30, [4] * 8, [5] * 38]
    alone = [generate(decoder, [prompt], settings, first_row=i)[0] for i, prompt in enumerate(prompts)]
    batch = generate(decoder, prompts, settings)
    assert [len(completion.ids) for completion in batch] == [1, 39, 10, 32, 2]
    assert batch == alone


@pytest.mark.thorough
@given(
    family=st.sampled_from([*WRITERS]),
    lengths=st.lists(st.integers(1, 39), min_size=1, max_size=12),
    at_once=st.integers(1, 9),
    most_tokens=st.integers(1, 300),
    tokens_read=st.integers(1, 80),
    settings=st.sampled_from(SETTINGS),
    data=st.data(),
)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_rows_give_the_same_in_any_places(family, lengths, at_once, most_tokens, tokens_read, settings, data):
    """Rows end at other tokens, wait for a place, and begin beside rows that have begun."""
    model = tiny_model(family)
    prompts = [[(7 * row + 3 * place + 1) % 53 for place in range(length)] for row, length in enumerate(lengths)]
    ends = data.draw(st.lists(st.integers(0, 20), min_size=len(prompts), max_size=len(prompts)))
    rows_in_a_step = []
    model.decoder.register_forward_hook(lambda _module, args, out: rows_in_a_step.append(len(out[0])))

    def made(at_once):
        tokens = [0] * len(prompts)

        def on_token(row, _token):
            tokens[row] += 1
            return tokens[row] > ends[row]

        return generate(model, prompts, settings, at_once=at_once, on_token=on_token, eos_ids=[11])

    together = made(None)
    rows_in_a_step.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfkit.generation.decoding, "_MOST_TOKENS", most_tokens)
        patch.setattr(tfkit.generation.decoding, "_TOKENS_READ", tokens_read)
        assert made(at_once) == together
    assert max(rows_in_a_step) <= max(at_once, settings.num_beams)


def test_hardly_any_padding_is_computed():
    """200 prompts of 1 to 200 tokens: nearly all that is read is real, and a step has as many rows as there are places."""
    model = tiny_model("gpt2", context_length=256)
    read, stepped = [], []
    model.embedding.register_forward_hook(lambda _module, args, _out: (stepped if args[0].shape[1] == 1 else read).append(args[0].numel()))
    lengths = [2 + 83 * row % 199 for row in range(200)]
    ends = [1 + 31 * row % 40 for row in range(200)]
    tokens = [0] * 200

    def on_token(row, _token):
        tokens[row] += 1
        return tokens[row] == ends[row]

    generate(model, [[1] * length for length in lengths], greedy(50), at_once=32, on_token=on_token)
    assert tokens == ends
    assert sum(read) < 1.05 * sum(lengths)
    assert sum(stepped) < 1.2 * (sum(ends) - 200)
    assert len(stepped) < 1.4 * (sum(ends) - 200) / 32


@pytest.mark.thorough
def test_a_cache_has_no_more_tokens_than_fit():
    """But a single prompt may be longer."""
    model = tiny_model("gpt2", context_length=20_000)
    sizes = []
    model.decoder.register_forward_hook(lambda _module, args, _out: sizes.append(args[1].cache.size // (4 * 24)))
    generate(model, [[1] * 18_000, *[[2] * 6_000] * 4, *[[3] * 10] * 9], greedy(3), at_once=32)
    assert max(sizes) <= 18_000 + 3
    assert sum(size > 11_000 for size in sizes) >= 4


@pytest.mark.sampled(3)
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


@pytest.mark.sampled(3)
def test_cached_decoding_is_the_full_forward_up_to_an_eos(model):
    expected = [without_cache(model, prompt, 20) for prompt in PROMPTS]
    assert [(one.ids, one.finish) for one in generate(model, PROMPTS, greedy())] == [(ids, "length") for ids in expected]
    eos_ids = {expected[0][2], expected[3][1], 52}
    completions = generate(model, PROMPTS, greedy(), eos_ids=eos_ids)
    for ids, completion in zip(expected, completions, strict=True):
        end = next((place for place, token in enumerate(ids) if token in eos_ids), None)
        assert (completion.ids, completion.finish) == (ids[:end], "length" if end is None else "stop")
    assert completions[0].finish == "stop"


@pytest.mark.sampled(3)
def test_draws_depend_on_seed_and_row(model):
    def drawn(seed, first_row=0):
        settings = GenerationSection(max_new_tokens=20, seed=seed)
        return [completion.ids for completion in generate(model, [[5, 6]] * 4, settings, first_row=first_row)]

    rows = [*drawn(1), *drawn(2), *drawn(1, 4)]
    assert drawn(1) == rows[:4]
    assert len(set(map(tuple, rows))) == 12


def test_the_training_mode_is_put_back(decoder):
    for training in (True, False):
        decoder.train(training)
        generate(decoder, [[1]], greedy(2))
        assert decoder.training is training
        assert decoder(torch.tensor([[1]])).hidden.requires_grad


def test_dropout_is_off():
    changes = {"dropout": {"embedding": 0.5, "attention": 0.5, "residual": 0.5}, "vocab_size": 53, "context_length": 40, "dim": 24}
    model = build(ModelConfig.model_validate(DECODERS["gpt2"] | {"decoder_layers": 2, "init": {"std": 0.3}} | changes), seed=3)
    assert len({tuple(generate(model.train(), [[4, 5]], greedy())[0].ids) for _ in range(3)}) == 1


def test_an_interruption_while_prompts_are_read_is_noticed_between_modules(decoder):
    """A long prompt takes minutes; and nothing of the interruption stays with the model."""
    asked = iter([False] * 4 + [True])
    batch = generate(decoder, PROMPTS, greedy(), should_stop=lambda: next(asked))
    assert [(completion.ids, completion.finish) for completion in batch] == [([], "interrupted")] * len(PROMPTS)
    assert next(asked, "none left") == "none left"
    assert generate(decoder, PROMPTS, greedy()) == generate(decoder, PROMPTS, greedy(), should_stop=lambda: False)


def test_an_interruption_keeps_what_was_made(model):
    made: list[int] = []
    batch = generate(
        model, PROMPTS, greedy(), on_token=lambda row, token: made.append(row), should_stop=lambda: len(made) == 5 * len(PROMPTS)
    )
    assert [(len(completion.ids), completion.finish) for completion in batch] == [(5, "interrupted")] * 5
    assert all(a.ids == without_cache(model, prompt, 5) for a, prompt in zip(batch, PROMPTS, strict=True))


def test_prompts_that_cannot_be_continued(decoder):
    with pytest.raises(DataError, match="prompt 2 has no tokens"):
        generate(decoder, [[1], []], greedy())
    with pytest.raises(DataError, match=r"prompt 12 has 40 tokens.*context holds 40.*at most 39"):
        generate(decoder, [[1], [1] * 40], greedy(), first_row=10)
    assert generate(decoder, [], greedy()) == []


def test_weights_that_are_not_finite(model):
    with torch.no_grad():
        model.embedding.tokens.weight[:, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        generate(model, [[1]], greedy())


def test_no_token_is_computed_twice(decoder):
    columns = []
    decoder.embedding.register_forward_hook(lambda _module, args, _out: columns.append(args[0].shape[1]))
    generate(decoder, PROMPTS, greedy())
    assert columns == [max(map(len, PROMPTS))] + [1] * 19


def test_an_encoder_reads_once_and_the_decoder_keeps_what_it_made_of_that():
    for family in ENCODER_DECODERS:
        model = tiny_model(family)
        calls = Counter()
        attention = model.decoder.blocks[1].cross_attention.op
        for name, module in {"encoder": model.encoder, "queries": attention.q_proj, "keys": attention.k_proj}.items():
            module.register_forward_hook(lambda *_, name=name, calls=calls: calls.update([name]))
        generate(model, PROMPTS, greedy(12))
        assert calls == {"encoder": 1, "queries": 12, "keys": 1}


def test_prompts_that_an_encoder_cannot_read():
    model = tiny_model("transformer_2017")
    with pytest.raises(DataError, match=r"prompt 1 has 41 tokens.*context holds 40: shorten it to at most 40 tokens"):
        generate(model, [[1] * 41], greedy())
    [completion] = generate(model, [[1] * 40], greedy(99))
    assert len(completion.ids) == 39
    [completion] = generate(tiny_model("t5"), [[1] * 60], greedy(50))  # relative positions go on
    assert len(completion.ids) == 50
    with pytest.raises(ModelError, match=r"its config does not name the token that starts its texts: .*decoder_start_token_id"):
        generate_from(model, [[1]], greedy())


def test_models_that_cannot_write():
    sizes = {"vocab_size": 53, "context_length": 40, "decoder_layers": 1, "dim": 24}
    encoder = {"decoder_layers": 0, "encoder_layers": 1, "head": {"kind": "masked_lm", "tied": True}}
    for changes, what in (
        (encoder, "the model is an encoder"),
        ({"head": {"kind": "classes", "count": 3, "pool": "last"}}, "the model has a head of the kind classes"),
        ({"head": {"kind": "none"}}, "the model has a head of the kind none"),
    ):
        with pytest.raises(ModelError, match=f"{what}: it reads text"):
            generate(build(ModelConfig.model_validate(DECODERS["gpt2"] | sizes | changes), seed=1), [[1]], greedy())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.4, "no_repeat_ngram": 2}])
@pytest.mark.parametrize("family", WRITERS)
def test_greedy_is_transformers_greedy(tmp_path, family, changes):
    _, theirs = their_writers.saved(tmp_path, family)
    loaded, settings = load(tmp_path), greedy(25, **changes)
    made = generate_from(loaded.model, PROMPTS, settings, start_id=loaded.start_id)
    options = {"repetition_penalty": settings.repetition_penalty, "no_repeat_ngram_size": settings.no_repeat_ngram or 0}
    for prompt, completion in zip(PROMPTS, made, strict=True):
        assert completion.ids == their_writers.written(theirs, prompt, do_sample=False, max_new_tokens=25, **options)
