"""Exports that fail: a full disk, signals at each step of the writing, too large a difference, parts of the model that are missing."""

import itertools
import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from tiny_files import read_json
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
def size(model: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The bytes of the whole export."""
    folder = tmp_path_factory.mktemp("whole")
    done, left = export(model, folder)
    assert (done.code, left) == (0, ["model.gguf"]), done.err
    return (folder / "out" / "model.gguf").stat().st_size


@pytest.mark.sampled(3)
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9999])
def test_f52_a_full_disk(model: Path, size: int, tmp_path: Path, part: float) -> None:
    """No file may have more than a part of the bytes of the export; only in the writing: the output of this process is a file, too."""
    whole, limit = gguf_export._write, int(part * size)

    def before() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

        def limited(*arguments: object) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                return whole(*arguments)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

        gguf_export._write = limited

    done, left = export(model, tmp_path, before)
    assert (done.code, left) == (5, []), done.err
    assert "model.gguf: cannot be written (" in done.err
    assert "(None)" not in done.err
    assert "make room there" in done.err


STEPS = ["write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"]


@pytest.mark.parametrize(
    ("step", "number"), [*zip([*STEPS, "rename"], itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]), strict=False)]
)
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


def test_f52_tied_weights_are_written_once(model: Path, tmp_path: Path) -> None:
    done, left = export(model, tmp_path)
    assert (done.code, left) == (0, ["model.gguf"]), done.err
    names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors]
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
        config = read_json(folder / "config.json")
        config["eos_token_id"] = config["vocab_size"] + 7
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "generation_config.json").unlink(missing_ok=True)
    done, left = export(folder, tmp_path)
    assert (done.code, left) == (4, []), done.err
    assert str(folder) in done.err
