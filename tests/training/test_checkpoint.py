"""The training state goes to the disk and back bit for bit, and damage is an error that names the file."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tfkit.engine.assembly.training_state import load_training_state, save_training_state
from tfkit.errors import ModelError
from tfkit.run.checkpoints import newest_good, save_checkpoint
from tfkit.run.manifest import verify
from tfkit.run.state_json import SavedLog, TrainingState
from tfkit.training.loop import Progress


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "moments.0": torch.randn(5, 7, generator=generator).t(),  # not contiguous
        "moments.1": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "working": torch.randn(3, generator=generator).to(torch.bfloat16),
        "steps": torch.tensor(12),
        "random": generator.get_state(),
        "none": torch.zeros(0, 4),
    }


PROGRESS = asdict(Progress(12, 10**15, seconds=0.1 + 0.2))
STATE = TrainingState(PROGRESS, 4, {"train": ["a"]}, 3, SavedLog(2, None, [(1, {"loss": None})]), {"a": [1, 2.5, True, "é"]})


def test_there_and_back_bit_for_bit(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, 12, lambda folder: save_training_state(folder, tensors(), STATE))
    assert newest_good(tmp_path, pytest.fail) == saved
    loaded, state = load_training_state(saved)
    assert state == STATE
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name].contiguous().view(-1).view(torch.uint8), tensor.contiguous().view(-1).view(torch.uint8)), name


@pytest.mark.parametrize("value", [float("nan"), (1, 2), {1: 2}, torch.zeros(1)])
def test_a_state_that_json_would_change_or_lacks_is_refused(tmp_path: Path, value: object) -> None:
    error, message = (
        (TypeError, "not JSON serializable")
        if isinstance(value, torch.Tensor)
        else (ValueError, "JSON cannot represent the training state")
    )
    with pytest.raises(error, match=message):
        save_training_state(tmp_path, {}, TrainingState({"value": value}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "huge header": lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
    "pickle": lambda path: torch.save({}, path),
}


@pytest.mark.parametrize("file", ["optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_names_the_file(tmp_path: Path, file: str, damage: str) -> None:
    saved = save_checkpoint(tmp_path, 12, lambda folder: save_training_state(folder, tensors(), STATE))
    path = saved / "training_state" / file
    DAMAGES[damage](path)
    with pytest.raises(ModelError, match=file):
        load_training_state(saved)
    assert any(str(path) in problem for problem in verify(saved))


@pytest.mark.parametrize("text", ["[]", '{"step": NaN}', '{"step": 1, "step": 2}', "\ufeff{}"])
def test_a_state_that_is_no_strict_object_is_refused(tmp_path: Path, text: str) -> None:
    save_training_state(tmp_path, {}, STATE)
    (tmp_path / "training_state" / "state.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"state\.json:"):
        load_training_state(tmp_path)
