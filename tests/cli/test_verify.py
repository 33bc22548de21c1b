"""tfkit verify says of each checkpoint whether it is good, which files are not, and what else lies there; it changes nothing."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_files import flip, read_json
from tiny_runs import Program, run_here

from tfkit.run.best_json import record_best
from tfkit.run.checkpoint_saving import save_checkpoint
from tfkit.run.checkpoints import newest_good


def write(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "README.md").write_text("a card")
    save_file({"w": np.arange(300.0)}, folder / "model.safetensors")
    (folder / "training_state").mkdir()
    (folder / "training_state" / "state.json").write_text('{"step": 1}')


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (2, 4):
        save_checkpoint(tmp_path / "checkpoints", step, write)
    return tmp_path


def verified(path: Path) -> tuple[int, dict[str, Any], str]:
    """The exit code, the document and what went to stderr; the folder is as it was."""
    before = sorted(path.rglob("*"))
    done = run_here(["verify", path, "--json"])
    assert sorted(path.rglob("*")) == before
    assert done.document.get("error", {"code": 0})["code"] == done.code
    return done.code, done.document, done.err


def test_good_ones(run: Path) -> None:
    (run / "checkpoints" / "step-000002" / "README.md").write_text("another card")
    code, document, err = verified(run)
    assert (code, err) == (0, "")
    assert (document["schema_version"], document["path"], document["good"], document["notes"]) == (1, str(run), True, [])
    for found, name in zip(document["checkpoints"], ("step-000002", "step-000004"), strict=True):
        size = sum((run / "checkpoints" / name / file).stat().st_size for file in ("config.json", "model.safetensors"))
        assert found == {
            "path": str(run / "checkpoints" / name),
            "verdict": "good",
            "files": 3,
            "bytes": size + len('{"step": 1}'),
            "problems": [],
            "extra": [],
        }


def test_a_damaged_file_is_named(run: Path) -> None:
    """tests/run/test_manifest.py has every damage of every file."""
    file = run / "checkpoints" / "step-000004" / "training_state" / "state.json"
    os.truncate(file, 7)
    code, document, err = verified(run)
    assert code == 4
    assert err.startswith(f"1 of 2 checkpoints did not pass: {file}: ")
    assert [found["verdict"] for found in document["checkpoints"]] == ["good", "damaged"]
    assert document["checkpoints"][1]["problems"][0].startswith(f"{file}: ")
    assert verified(run / "checkpoints" / "step-000002")[0] == 0


@pytest.mark.parametrize("damage", ["missing", "another version"])
def test_without_a_valid_manifest_it_is_incomplete(run: Path, damage: str) -> None:
    manifest = run / "checkpoints" / "step-000004" / "manifest.json"
    if damage == "missing":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(read_json(manifest) | {"schema_version": 2}))
    code, document, err = verified(manifest.parent)
    assert code == 4
    assert str(manifest) in err
    assert document["checkpoints"][0]["verdict"] == "incomplete"


def test_a_folder_of_others_has_nothing_to_check_against(run: Path) -> None:
    """Its headers are looked at all the same."""
    write(run / "checkpoints")
    (run / "checkpoints" / "generation_config.json").write_text("{")
    os.truncate(run / "checkpoints" / "model.safetensors", 300)
    code, document, err = verified(run / "checkpoints")
    assert code == 4
    assert "there is nothing to check its files against" in err
    problems = document["checkpoints"][0]["problems"]
    assert len(problems) == 3
    assert "generation_config.json:1:2: not JSON" in problems[1]
    assert str(run / "checkpoints" / "model.safetensors") in problems[2]


def test_other_files_are_reported(run: Path) -> None:
    root = run / "checkpoints"
    save_checkpoint(root, 6, write)
    flip(root / "step-000006" / "model.safetensors")
    assert newest_good(root, lambda message: None) == root / "step-000004"
    (root / ".step-000008.tmp-1-ab").mkdir()
    (root / "best.json").write_text('{"step": 6, "metric": "loss", "value": 1.0}')
    (root / "step-000002" / "training_state" / "notes.txt").touch()
    code, document, _ = verified(run)
    assert code == 0, "none of it makes a checkpoint worse"
    assert [found["extra"] for found in document["checkpoints"]] == [["training_state/notes.txt"], []]
    aside, leftover, best = document["notes"]
    assert "step-000006.damaged: was damaged" in aside
    assert ".step-000008.tmp-1-ab: left by a save that was killed" in leftover
    assert "best.json: names step 6, which is not complete here" in best
    assert record_best(root, 4, "loss", 2.0)
    assert len(verified(run)[1]["notes"]) == 2


def test_the_words_for_people(run: Path) -> None:
    file = run / "checkpoints" / "step-000004" / "model.safetensors"
    flip(file)
    good, damaged, which = run_here(["verify", run]).exits(4).out.splitlines()
    assert good.endswith("step-000002: good (3 files, 2,505 bytes)")
    assert damaged.startswith(f"{file.parent}: damaged (")
    assert which == f"  {file}: damaged: its SHA-256 is not the manifest's"


def test_damage_is_reported_by_the_code_where_nobody_reads(run: Path) -> None:
    flip(run / "checkpoints" / "step-000002" / "config.json")
    with Program(["verify", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        program.stdout.close()
        assert "1 of 2 checkpoints did not pass" in program.stderr.read()
        assert program.wait() == 4


@pytest.mark.parametrize("path", ["nowhere", "file", "hub:org/name", "run"])
def test_no_checkpoint(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    done = run_here(["verify", path if ":" in path else str(tmp_path / path)]).exits(4)
    assert (done.out, done.err.count("\n")) == ("", 1)
