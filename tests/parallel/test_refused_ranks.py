"""What several ranks cannot do yet is refused with what to do, before anything is written."""

from pathlib import Path

import pytest

from tfkit.__main__ import main
from tfkit.engine.dealt_recipes import rank_threads, require_dealt
from tfkit.errors import UsageError
from tfkit.parallel.ranks import Ranks
from tfkit.recipe import bundled_recipes, open_recipe

RECIPE = "model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 3, batch_size: 4}\ncarbon: {enabled: false}\n"
STAGES = "stages:\n  a: {model: {preset: gpt2}, data: {train: [{stdlib: true}]}, training: {steps: 3}}\n"


@pytest.fixture
def rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (RECIPE, ["training.compile=true"], "training.compile: it compiles its model, which several ranks cannot do together yet"),
        (RECIPE, ["training.batch_size=3"], "training.batch_size: 3 rows cannot be dealt evenly to 2 ranks"),
        (RECIPE, ["training.micro_batch_size=4"], "training.micro_batch_size: 4 rows are 1 micro-batches of 4"),
        (RECIPE, ["--ranks", "4"], "--ranks 4: this is rank 0 of 2 already"),
        (STAGES, ["a.training.batch_size=3"], "stage a: training.batch_size: 3 rows cannot be dealt evenly to 2 ranks"),
    ],
)
@pytest.mark.usefixtures("rank_0")
def test_it_is_refused(tmp_path: Path, text: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text, encoding="utf-8")
    assert main(["pretrain", str(recipe), "--run", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_objective_is_dealt_but_shared_weights_do_not_sample() -> None:
    for recipe in bundled_recipes():
        source = open_recipe(recipe.name)
        if source.has_stages:
            continue
        words = ["training.batch_size=32", "training.micro_batch_size=null", "training.compile=false"]
        require_dealt(source.read(words), 2)
        if source.read().objective.kind == "grpo":
            with pytest.raises(UsageError, match="responses are sampled by ranks that have the whole model"):
                require_dealt(source.read([*words, "parallel.shard=2"]), 2)


def test_a_plan_is_of_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "demo", "--dry-run", "--ranks", "2", "--run", str(tmp_path / "run")]) == 2
    assert "tfkit check --ranks N" in capsys.readouterr().err


def test_threads_of_a_rank() -> None:
    assert rank_threads(None, Ranks()) is None
    assert rank_threads(3, Ranks(0, 2, 0, 2)) == 3
    assert rank_threads(None, Ranks(0, 4096, 0, 4096)) == 1


def test_a_part_of_the_variables_is_an_error_of_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["pretrain", "demo"]) == 2
    assert "WORLD_SIZE=2 is set, but not RANK" in capsys.readouterr().err
