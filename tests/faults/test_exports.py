"""Exports that fail: a full disk, signals at each step of the writing, too large a difference, parts of the model that are missing."""

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from saved_runs import limited_files
from tiny_files import edit_config, read_json
from tiny_runs import Done, Strike, pretrain, run_tfkit

from tfkit.engine.tools import gguf_export


@pytest.fixture(scope="module")
def model(base: Path) -> Path:
    """A model folder with one matrix for embedding and output, and a tokenizer with a special token."""
    pretrain(base / "run", base / "tiny.yaml", "training.steps=2").exits(0)
    return max((base / "run" / "checkpoints").glob("step-*"))


def export(model: Path, folder: Path, before: Callable[[], object] | None = None) -> tuple[Done, list[str]]:
    """Run `tfkit export` into `folder`; return also the names of the files that it leaves there."""
    out = folder / "out"
    out.mkdir()
    done = run_tfkit(folder, ["export", str(model), "--gguf", str(out / "model.gguf")], before=before)
    return done, sorted(path.name for path in out.iterdir())


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole export."""
    folder = tmp_path_factory.mktemp("whole")
    done, left = export(model, folder)
    assert (done.code, left) == (0, ["model.gguf"]), done.err
    return folder / "out" / "model.gguf"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9999])
def test_f52_a_full_disk(model: Path, whole: Path, tmp_path: Path, part: float) -> None:
    """No file may have more than a part of the bytes of the export."""
    done, left = export(model, tmp_path, limited_files(gguf_export, "_write", lambda: int(part * whole.stat().st_size)))
    done.exits(5, "model.gguf: cannot be written (", "make room there")
    assert left == []
    assert "(None)" not in done.err


STEPS = ["write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close", "rename"]


@pytest.mark.parametrize(("step", "number"), [*zip(STEPS, itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]), strict=False)])
def test_f52_stopped_while_the_file_is_written(model: Path, tmp_path: Path, step: str, number: signal.Signals) -> None:
    before = Strike(number, 1, gguf_export if step == "rename" else gguf.GGUFWriter, step)
    done, left = export(model, tmp_path, before.__call__)
    done.exits(-number if number == signal.SIGKILL else 128 + number)
    assert "model.gguf" not in left, "half an export has no name that a reader takes for a whole one"
    if number != signal.SIGKILL:
        assert left == []


def test_f52_predictions_that_differ_by_too_much(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gguf_export.TYPES, "f16", -1.0)
    done, left = export(model, tmp_path)
    assert (done.code, left) == (8, []), done.err
    assert "as f16, its predictions differ by a mean KL divergence of" in done.err


def test_f52_tied_weights_are_written_once(whole: Path) -> None:
    names = [tensor.name for tensor in gguf.GGUFReader(whole).tensors]
    assert "token_embd.weight" in names
    assert "output.weight" not in names


@pytest.mark.parametrize("missing", ["tokenizer", "end"])
def test_f52_special_tokens_that_are_missing(model: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    if missing == "tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    else:
        edit_config(folder, eos_token_id=read_json(folder / "config.json")["vocab_size"] + 7)
        (folder / "generation_config.json").unlink(missing_ok=True)
    done, left = export(folder, tmp_path)
    assert (done.code, left) == (4, []), done.err
    assert str(folder) in done.err
