"""The sizes of a pretraining on one's own text: valid for every bundled recipe and amount of text, and never against the user."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import tfkit
from tfkit.engine.recognition.own_data import tuning_overrides
from tfkit.recipe import Recipe, RecipeText
from tfkit.recipe.bundled import bundled_recipes
from tfkit.recipe.pretraining_sizes import SMALL_DECODER, TextSize, decide_sizes
from tfkit.recipe.reading.overrides import Overrides, followed_by

BUNDLED = [
    RecipeText(found.path, found.path.read_text(encoding="utf-8")) for found in bundled_recipes() if found.name.startswith("pretrain/")
]
SOURCES = [RecipeText(Path("small"), SMALL_DECODER), *(source for source in BUNDLED if not source.has_stages)]
NAMED = [
    {"training.steps": 700},
    {"training.epochs": 2},
    {"training.tokens": 10**6},
    {"tokenizer.vocab_size": 5000},
    {"training.batch_size": 24, "training.micro_batch_size": None},
    {"evaluation.every": 9},
    {"evaluation": {}, "checkpoint": {}},
    {"data.validation": None, "evaluation.every": None},
    {"data.validation": 0.2},
    {"generation.prompts": []},
]


def decided(source: RecipeText, text: TextSize, changes: Overrides, minutes: float | None = None) -> tuple[Recipe, dict[str, object]]:
    """Return the recipe for an amount of text, with what was decided."""
    overrides = tuning_overrides(changes, source, None, "text.txt")
    written = source.read(overrides)
    sizes = decide_sizes(written, source.fields().get("training.steps"), text, overrides, minutes, grows=source is SOURCES[0])
    return source.read(followed_by(overrides, sizes.fields)), sizes.fields


def text_of(characters: int) -> TextSize:
    return TextSize(max(1, characters // 100), characters, True, "It was")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize("characters", [1, 3_000, 100_000, 5_000_000, 100_000_000])
@pytest.mark.parametrize("minutes", [None, 5])
def test_every_bundled_recipe_takes_every_amount_of_text(source: RecipeText, characters: int, minutes: float | None) -> None:
    recipe, _ = decided(source, text_of(characters), {}, minutes)
    assert [one.path for one in recipe.data.train] == ["text.txt"]
    assert isinstance(recipe.data.validation, float)
    if recipe.generation.prompts:
        assert recipe.generation.prompts == ["It was"]


@settings(max_examples=150, deadline=None)
@given(source=st.sampled_from(SOURCES), characters=st.integers(1, 10**8), named=st.sampled_from(NAMED))
def test_what_the_user_names_is_never_decided(source: RecipeText, characters: int, named: Overrides) -> None:
    if source.read(tuning_overrides({}, source, None, "text.txt")).tokenizer.path is None or "tokenizer.vocab_size" not in named:
        _, fields = decided(source, text_of(characters), named)
        assert not fields.keys() & named.keys()
        assert not any(path.startswith(f"{name}.") for path in fields for name in named)
        if any(name in named for name in ("training.steps", "training.epochs", "training.tokens")):
            assert not fields.keys() & {"training.steps", "training.epochs", "training.tokens"}


@pytest.mark.parametrize(("characters", "reason"), [(300, "the fewest that teach something"), (300_000, "6: of which the best")])
def test_the_reason_for_the_length_is_the_rule_that_decided_it(characters: int, reason: str) -> None:
    source = SOURCES[0]
    written = source.read(tuning_overrides({}, source, None, "text.txt"))
    sizes = decide_sizes(written, source.fields().get("training.steps"), text_of(characters), {}, None, grows=True)
    [about] = [line for line in sizes.reasons if line.startswith(("training.steps=", "training.epochs="))]
    assert reason in about
    assert (sizes.fields["training.steps"], sizes.fields.get("training.epochs")) == ((10, None) if characters == 300 else (None, 6))


@settings(max_examples=60, deadline=None)
@given(fewer=st.integers(1_000, 10**8), more=st.integers(1_000, 10**8))
def test_more_text_is_never_a_smaller_model_or_a_shorter_training(fewer: int, more: int) -> None:
    fewer, more = sorted((fewer, more))
    small, large = (decided(SOURCES[0], text_of(count), {})[0] for count in (fewer, more))
    assert small.tokenizer.vocab_size <= large.tokenizer.vocab_size
    assert small.model.changes["context_length"] <= large.model.changes["context_length"]
    assert small.training.batch_size <= large.training.batch_size
    read = [
        characters * one.training.epochs if one.training.epochs else 2.5 * (one.training.steps or 0) * one.training.batch_size * length
        for one, characters in ((small, fewer), (large, more))
        for length in [one.model.changes["context_length"]]
    ]
    assert read[0] <= 1.5 * read[1]  # fewer tokens of a larger vocabulary hold the same text


def test_a_batch_is_made_of_the_micro_batches_that_the_user_names() -> None:
    sizes = [decided(SOURCES[0], text_of(3_000), {"training.micro_batch_size": named})[0].training.batch_size for named in (16, 8, None)]
    assert sizes == [16, 8, 8]


def test_a_length_in_steps_keeps_the_shape_of_the_run() -> None:
    source = next(source for source in SOURCES if source.name == "gpt2-stdlib")  # 250 steps, of which 25 of warm-up, saved every 125
    recipe, _ = decided(source, text_of(10**8), {"training.steps": 1000})
    assert (recipe.schedule.warmup_steps, recipe.checkpoint.every, recipe.evaluation.every) == (100, 500, 500)


@pytest.mark.parametrize(("minutes", "evaluations"), [(0.5, 2), (2, 9), (3, 10), (60, 10)])
def test_a_run_is_evaluated_as_often_as_its_length_pays_for(minutes: float, evaluations: int) -> None:
    recipe, _ = decided(SOURCES[0], text_of(10**7), {}, minutes)
    assert recipe.evaluation.every == recipe.checkpoint.every == math.ceil((recipe.training.steps or 0) / evaluations)


def test_the_small_decoder_learns_from_a_text_and_transformers_opens_it(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(f"It was day {number}, and the cat sat on mat {number % 9}.\n" for number in range(60)))
    tiny = {"model.dim": 16, "model.num_heads": 2, "model.decoder_layers": 1, "training.precision": "fp32", "carbon.enabled": False}
    result = tfkit.pretrain(data=tmp_path / "book.txt", overrides=tiny, tokens=8_000, run=tmp_path / "run")
    assert result.evaluation["loss"] < math.log(280)
    assert result.tokens >= 8_000
    ours, theirs = tfkit.load(result.checkpoint), AutoModelForCausalLM.from_pretrained(result.checkpoint)
    ids = torch.tensor([ours.tokenizer.encode("It was day 7").ids])
    torch.testing.assert_close(ours.model(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


def test_a_training_has_one_length(tmp_path: Path) -> None:
    with pytest.raises(tfkit.errors.UsageError, match="two lengths"):
        tfkit.pretrain("smoke", data=tmp_path / "book.txt", tokens=3, minutes=3)


def test_rows_that_are_all_held_out_are_named(tmp_path: Path) -> None:
    row = {"question": "Where do cats sleep?", "context": "Cats sleep in boxes.", "answers": [{"text": "in boxes", "answer_start": 11}]}
    (tmp_path / "qa.jsonl").write_text(f"{json.dumps(row)}\n" * 9)
    with pytest.raises(tfkit.errors.DataError, match=r"all rows have the same input, .* hold out single rows with data\.split_by=row"):
        tfkit.plan("bert-stdlib", {"objective": {"kind": "question_answering"}}, data=tmp_path / "qa.jsonl")


@pytest.mark.parametrize("validation", ["[{path: own.csv}]", "0.3", "null"])
def test_named_data_take_the_place_of_own_validation_sources(validation: str) -> None:
    """Of a fine-tuning, too: rows of another data set say nothing about this one. A fraction is one of the named data."""
    source = RecipeText(Path("task.yaml"), f"data: {{train: [{{path: own.csv}}], validation: {validation}}}\n")
    named = tuning_overrides({}, source, "ckpt", "rows.csv")
    assert named["data.train"] == [{"path": "rows.csv"}]
    assert named.get("data.validation") == (0.1 if validation.startswith("[") else None)
    assert "data.validation" not in tuning_overrides({}, source, "ckpt", None)
    assert tuning_overrides({"data.validation": 0.2}, source, "ckpt", "rows.csv")["data.validation"] == 0.2
    assert "data.validation" not in tuning_overrides({"data.validation.0.path": "b.csv"}, source, "ckpt", "rows.csv")
