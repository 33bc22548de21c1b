"""Beam search beside transformers' own, and beside a search of all texts."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import their_writers
from tiny_writers import PROMPTS, START, WRITERS, greedy, next_log_probabilities, tiny_model

from tfkit.generation.beams import BeamSearch
from tfkit.generation.decoding import Completion
from tfkit.generation.decoding import generate as generate_from
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.output_sections import GenerationSection

generate = partial(generate_from, start_id=START)
FEW = PROMPTS[1:4]  # where each is searched for alone
THEIR_EARLY_STOPPING = {"full": True, "likely": False, "never": "never"}
LONG = {"num_beams": 3, "length_penalty": 3.0, "max_new_tokens": 20}
SEARCHES = {
    "two beams": ({"num_beams": 2, "max_new_tokens": 15}, [3]),
    "ended early, several eos": ({"num_beams": 4, "length_penalty": 0.6, "early_stopping": "full", "max_new_tokens": 20}, [3, 17, 20]),
    "short texts": ({"num_beams": 3, "length_penalty": -1.0, "max_new_tokens": 20}, [9, 4, 12, 30]),
    "long texts": ({"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never", "max_new_tokens": 25}, [1, 2, 3, 5, 6, 7]),
    "no law of lengths": ({"num_beams": 5, "length_penalty": 0.0, "early_stopping": "never", "max_new_tokens": 12}, [15, 18]),
    "ended early, long texts": (LONG | {"early_stopping": "full"}, [3, 7, 17, 20, 28]),
    "likely to be the best": (LONG, [3, 7, 17, 20, 28]),
    "no end": ({"num_beams": 3, "max_new_tokens": 12}, []),
    "no repetition": ({"num_beams": 3, "repetition_penalty": 1.3, "no_repeat_ngram": 2, "max_new_tokens": 20}, [3, 17, 20]),
}


def their_search(theirs: Any, prompt: list[int], settings: GenerationSection, eos_ids: list[int]) -> list[int]:
    options = {name: getattr(settings, name) for name in ("num_beams", "length_penalty", "max_new_tokens", "repetition_penalty")}
    options |= {"early_stopping": THEIR_EARLY_STOPPING[settings.early_stopping], "no_repeat_ngram_size": settings.no_repeat_ngram or 0}
    made = their_writers.written(theirs, prompt, do_sample=False, eos_token_id=eos_ids or None, **options)
    return list(itertools.takewhile(lambda token: token not in eos_ids, made))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", WRITERS)
def test_beam_search_is_transformers(tmp_path: Path, family: str) -> None:
    finishes, differ, ends = set(), 0, []
    for seed in (3, 4) if family in ("gemma2", "t5") else (3,):
        ours, theirs = their_writers.saved(tmp_path / str(seed), family, seed)
        for name, (changes, eos_ids) in SEARCHES.items():
            if seed == 4 and changes.get("length_penalty") != 3.0:
                continue  # for these models one seed does not distinguish an early end from a likely one
            settings = GenerationSection.model_validate(changes)
            made = generate(ours, FEW, settings, eos_ids=eos_ids)
            expected = [their_search(theirs, prompt, settings, eos_ids) for prompt in FEW]
            assert [completion.ids for completion in made] == expected, name
            finishes |= {completion.finish for completion in made}
            if changes.get("length_penalty") == 3.0:
                ends.append(made)
            differ += made != generate(ours, FEW, greedy(settings.max_new_tokens), eos_ids=eos_ids)
    assert finishes == {"stop", "length"}  # the cases bite
    assert differ > len(SEARCHES) // 2
    assert ends[::2] != ends[1::2]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", WRITERS)
def test_a_batch_of_searches_gives_what_each_gives_alone(family: str) -> None:
    model = tiny_model(family)
    prompts = [[1] * 36, *FEW, [2] * 30]  # the first ones reach the end of the context, and free its columns
    for name in ("two beams", "ended early, several eos", "no law of lengths", "likely to be the best", "no repetition"):
        changes, eos_ids = SEARCHES[name]  # the others rank texts by other laws, row by row
        settings = GenerationSection.model_validate(changes | {"max_new_tokens": 30})
        alone = [generate(model, [prompt], settings, eos_ids=eos_ids)[0] for prompt in prompts]
        assert generate(model, prompts, settings, eos_ids=eos_ids) == alone


@pytest.mark.sampled(4)
@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("beams", [2, 4])
def test_searches_that_end_in_the_first_step_leave_the_others_alone(family: str, beams: int) -> None:
    """As many are left as beams go into: the rows are as many as before, and of other prompts."""
    model = tiny_model(family)
    encodes = (
        model.encoder is not None
    )  # these have room, and end by what they write; of the others all but the first have room for one token
    prompts = [[1 + number] * (20 - number if encodes else 39 if number else 9) for number in range(beams)]
    settings = GenerationSection(num_beams=beams, max_new_tokens=12, early_stopping="full")

    def made(rows: list[int]) -> list[Completion]:
        return generate(model, [prompts[row] for row in rows], settings, ended=lambda at, _ids: encodes and rows[at] > 0)

    alone = [made([row])[0] for row in range(beams)]
    assert [len(one.ids) for one in alone] == [12, *[1] * (beams - 1)]
    assert made([*range(beams)]) == alone


@pytest.mark.parametrize(("law", "divisor"), [("power", 2**0.6), ("gnmt", (7 / 6) ** 0.6)])
def test_the_score_of_a_text_counts_all_its_tokens_but_the_prompts(law: str, divisor: float) -> None:
    search = BeamSearch([5, 6, 7], 9, GenerationSection(num_beams=2, length_law=law, length_penalty=0.6), {2})
    search.extend([(-1.5, 0, 2), (-2.0, 0, 4), (-3.0, 0, 2)])  # the third ends too late: only the first two may
    assert [(text.ids, text.score) for text in search.completed] == [([], -1.5)]
    search.extend([(-2.5, 0, 3), (-2.75, 0, 2), (-9.0, 0, 1)])
    assert [text.score for text in search.completed] == pytest.approx([-1.5, -2.75 / divisor])
    assert search.completed[1].ids == [4]


def test_what_one_beam_lacks_no_other_fills() -> None:
    search = BeamSearch([5], 9, GenerationSection(num_beams=3), {2})
    search.extend([(-1.0, 0, 4), (-2.0, 0, 2), (float("-inf"), 0, 7)])  # excluded tokens are no texts
    assert [(beam.ids, beam.log_probability) for beam in search.running] == [([4], -1.0)] + [([4], float("-inf"))] * 2
    search.extend([(-1.5, 0, 2), (float("-inf"), 1, 4)])
    assert search.done
    assert [text.ids for text in search.completed] == [[4], []]


def whole_texts(model: Transformer, prompt: list[int], limit: int, eos: int) -> Iterator[tuple[list[int], float]]:
    """Every text (ending in eos, or of `limit` tokens) with its log-probability."""
    pending: list[tuple[list[int], float]] = [([], 0.0)]
    while pending:
        made, so_far = pending.pop()
        for token, one in enumerate(next_log_probabilities(model, prompt, made).tolist()):
            ids = [*made, token]
            if token == eos or len(ids) == limit:
                yield ids, so_far + one
            else:
                pending.append((ids, so_far + one))


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_enough_beams_find_the_best_of_all_texts(family: str) -> None:
    model, eos, limit = tiny_model(family, vocab_size=4), 2, 4
    texts = list(whole_texts(model, [3, 1], limit, eos))
    assert len(texts) == 3**4 + sum(3**n for n in range(4))
    laws = {"power": lambda n: n, "gnmt": lambda n: (5 + n) / 6}  # GNMT's equation 14
    best = {}
    for law, penalty in itertools.product(laws, (-3.0, 0.0, 0.6, 4.0)):
        expected, _ = max(texts, key=lambda text: text[1] / laws[law](len(text[0])) ** penalty)
        settings = GenerationSection(num_beams=120, length_law=law, length_penalty=penalty, early_stopping="never", max_new_tokens=limit)
        [completion] = generate(model, [[3, 1]], settings, eos_ids=[eos])
        assert completion.ids == [token for token in expected if token != eos]
        assert completion.finish == ("stop" if expected[-1] == eos else "length")
        best[law, penalty] = completion.ids
    assert len(set(map(tuple, best.values()))) > 1


def test_no_token_is_computed_twice_and_whole_searches_are_left_out() -> None:
    model = tiny_model("gpt2")
    shapes: list[tuple[int, int]] = []
    model.embedding.register_forward_hook(lambda _module, args, _out: shapes.append(tuple(args[0].shape)))
    generate(model, PROMPTS, GenerationSection(num_beams=3, max_new_tokens=20, early_stopping="full"), eos_ids=[28, 30, 39, 13, 42])
    assert shapes[0] == (len(PROMPTS), 11)  # a prompt is read once, whatever the beams
    rows = [rows for rows, columns in shapes[1:]]
    assert {columns for _, columns in shapes[1:]} == {1}
    assert rows[0] == 3 * len(PROMPTS)
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 1


@pytest.mark.parametrize("family", WRITERS)
def test_keys_and_values_of_a_prompt_are_kept_once_for_all_beams(family: str) -> None:
    """Layers with a window are small, and keep theirs for each beam; an encoder reads once."""
    model, prompts, new = tiny_model(family), [[1] * 9, [2] * 30], 8
    sizes: list[int] = []
    model.decoder.register_forward_hook(lambda _module, args, _out: sizes.append(args[1].cache.size))
    encoded = 0
    if model.encoder is not None:
        encoded, read = 2 * 2 * 30, []
        for module in (model.encoder, model.decoder.blocks[0].cross_attention.op.k_proj):
            module.register_forward_hook(lambda _module, args, _out: read.append(len(args[0])))
    generate(model, prompts, GenerationSection(num_beams=5, max_new_tokens=new))
    assert not encoded or read == [len(prompts)] * 2
    position = 2 * model.config.num_kv_heads * model.config.head_dim
    longest = 1 if encoded else 30
    rows = [2 * longest + 10 * (new - 1) if model.config.window(layer) is None else 10 * 4 for layer in range(2)]
    assert set(sizes[1:]) == {position * (sum(rows) + encoded)}


def test_the_text_is_streamed_once_it_is_known() -> None:
    model = tiny_model("gpt2")
    streamed: list[tuple[int, int]] = []
    settings = GenerationSection(num_beams=3, max_new_tokens=8)
    made = generate(model, PROMPTS, settings, on_token=lambda row, token: streamed.append((row, token)))
    assert streamed == [(row, token) for row, completion in enumerate(made) for token in completion.ids]
    stopped = generate(model, PROMPTS, settings, on_token=lambda row, token: token == made[row].ids[2])
    assert [completion.finish for completion in stopped] == ["stop"] * len(PROMPTS)
    assert all(len(completion.ids) <= 3 for completion in stopped)


def test_a_text_ends_where_ended_says() -> None:
    """As at an eos, but the token stays: a text competes with the length that it has then."""
    model = tiny_model("llama")
    settings = GenerationSection(num_beams=4, max_new_tokens=20)
    ends = [3, 17, 20]
    at_eos = generate(model, PROMPTS, settings, eos_ids=ends)
    asked = generate(model, PROMPTS, settings, ended=lambda _row, ids: ids[-1] in ends)
    assert [c.ids[:-1] if c.finish == "stop" else c.ids for c in asked] == [c.ids for c in at_eos]
    assert [c.finish for c in asked] == [c.finish for c in at_eos]
    assert "stop" in {c.finish for c in asked}


@pytest.mark.parametrize("family", WRITERS)
def test_an_interruption_gives_the_best_so_far(family: str) -> None:
    model = tiny_model(family)
    settings = GenerationSection(num_beams=3, max_new_tokens=20)
    steps: list[int] = []
    model.decoder.register_forward_hook(lambda *_: steps.append(1))
    made = generate(model, PROMPTS, settings, should_stop=lambda: len(steps) == 5)
    assert [(len(completion.ids), completion.finish) for completion in made] == [(5, "interrupted")] * len(PROMPTS)
    assert all(tuple(completion.ids) for completion in made)


def test_a_search_ends_where_every_token_is_excluded() -> None:
    """A vocabulary of five, no token twice, and no end."""
    model = tiny_model("gpt2", vocab_size=5)
    [made] = generate(model, [[1, 2]], GenerationSection(num_beams=2, no_repeat_ngram=1, max_new_tokens=9))
    assert (sorted(made.ids), made.finish) == ([0, 3, 4], "stop")
