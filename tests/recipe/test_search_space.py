"""Which of key=value a sweep varies."""

from pathlib import Path

import pytest
from tiny_runs import RECIPE

from tfkit.errors import UsageError
from tfkit.recipe import RecipeText
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.search_space import Axis, SearchSpace, read_space


def space_of(*words: str) -> SearchSpace:
    return read_space(words, {}, lambda _: RecipeText(Path("tiny.yaml"), RECIPE))


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("optimizer.lr=1e-3,3e-3", [1e-3, 3e-3]),
        ("optimizer.lr=[1e-3, 3e-3]", [1e-3, 3e-3]),
        ("optimizer.betas=[[0.9, 0.95], [0.9, 0.99]]", [[0.9, 0.95], [0.9, 0.99]]),
        ("optimizer={kind: adamw, lr: 1e-3}, {kind: muon}", [{"kind": "adamw", "lr": 1e-3}, {"kind": "muon"}]),
        ("generation.prompts.0='a, b',c", ["a, b", "c"]),
        ("optimizer.clip_norm=null,1", [None, 1]),
    ],
)
def test_several_values(word: str, values: list[object]) -> None:
    space = space_of("training.steps=2", word)
    assert [*space.axes[0].values] == values
    assert (space.fixed, space.size) == ({"training.steps": 2}, len(values))
    assert SearchSpace.of(space.fixed, space.document()) == space


@pytest.mark.parametrize("word", ["optimizer.betas=[0.9, 0.95]", "generation.prompts=[a, b]", "data.train=[{path: x}]"])
def test_a_list_that_the_field_takes_as_one_value_is_one(word: str) -> None:
    assert space_of(word, "training.seed=1,2").fixed == parse_overrides([word])
    with pytest.raises(UsageError, match="nothing varies"):
        space_of(word)


@pytest.mark.parametrize("words", [["5e-4", "1e-3,3e-3"], ["5e-4,6e-4", "[1e-3, 3e-3]"], ["[5e-4, 6e-4]", "1e-3,3e-3"]])
def test_the_last_word_about_a_field_counts(words: list[str]) -> None:
    given = [f"optimizer.lr={word}" for word in words]
    assert space_of(*given) == SearchSpace({}, (Axis("optimizer.lr", (1e-3, 3e-3)),))
    with pytest.raises(UsageError, match="nothing varies"):
        space_of(*given, "optimizer.lr=1e-3")


def test_ranges() -> None:
    space = space_of("optimizer.lr=1e-5..1e-2", "model.decoder_layers=2..8", "training.seed=1,2", "optimizer.lr=1e-4..3e-4")
    assert space.axes == (
        Axis("model.decoder_layers", ends=(2, 8), whole=True),
        Axis("training.seed", (1, 2)),
        Axis("optimizer.lr", ends=(1e-4, 3e-4)),  # the last one wins
    )
    assert (space.size, space.axes[2].is_logarithmic, Axis("x", ends=(1e-5, 1e-2)).is_logarithmic) == (None, False, True)
    assert SearchSpace.of({}, {"sft.training.steps": [1, 2], "dpo.training.epochs": [1, 2]}).size == 4  # of two stages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=1e-2..1e-5"], "smaller end"),
        (["optimizer.lr=1..1e999"], "both finite"),
        (["training.seed=1,,2"], "between two commas"),
        (["training.steps=2,3", "training.tokens=10,20"], "training.steps and training.tokens: two lengths of one training"),
        *((word, "twice; write each once") for word in (["optimizer.lr=1e-3,3e-3,0.001"], ["optimizer.clip_norm=1,1.0"])),
        (["optimizer.kind=[adamw, muon, adamw]"], "twice; write each once"),
    ],
)
def test_what_no_space_is(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        space_of(*words)
