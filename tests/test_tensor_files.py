"""Files of tensors that are written one at a time are equal to those of safetensors and huggingface_hub, byte for byte."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tfkit.hub import tensor_files
from tfkit.hub.tensor_files import TensorFile, write_model_tensors, write_tensors


def drawn() -> dict[str, Tensor]:
    """Draw tensors of several types and shapes, some of them transposed or empty."""
    made: dict[str, Tensor] = {f"weight.{i}": torch.randn(i + 1, 3).t() for i in range(9)}
    made |= {"random": torch.arange(5, dtype=torch.uint8), "step": torch.tensor(3.0), "nothing": torch.empty(0, 4)}
    made |= {"half": torch.randn(3).bfloat16(), "count": torch.tensor([7]), "wide": torch.randn(2).double(), "flag": torch.tensor(True)}
    return made


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_of_any_types(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    tensors = drawn()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs", metadata=metadata)
    write_tensors(tmp_path / "ours", dict(reversed(tensors.items())), metadata=metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("limit", [5 * 10**9, 100, 20], ids=["one file", "shards", "tensors larger than a shard"])
def test_the_files_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", limit)
    tensors = {name: tensor.contiguous() for name, tensor in drawn().items() if name.startswith("weight")}
    for place in ("theirs", "ours"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model-00001-of-00077.safetensors").write_bytes(b"of an earlier model")
    huggingface_hub.save_torch_state_dict(tensors, tmp_path / "theirs", max_shard_size=limit, metadata={"format": "pt"})
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_model_tensors(tmp_path / "ours", shapes, reversed(tensors.items()))
    theirs, ours = ({path.name: path.read_bytes() for path in (tmp_path / place).iterdir()} for place in ("theirs", "ours"))
    assert ours == theirs
    assert len(ours) > 3 or limit > 100


def test_two_tensors_are_held_at_once(tmp_path: Path) -> None:
    living: list[weakref.ref[Tensor]] = []

    def made() -> Iterator[tuple[str, Tensor]]:
        for number in range(5):
            assert sum(one() is not None for one in living) <= 1
            tensor = torch.ones(4)
            living.append(weakref.ref(tensor))
            yield str(number), tensor
            del tensor

    write_model_tensors(tmp_path, {str(number): (4,) for number in range(5)}, made())
    assert len(living) == 5


def test_a_tensor_that_is_missing_or_has_another_shape_is_a_bug(tmp_path: Path) -> None:
    layout = {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}
    with pytest.raises(AssertionError, match="b"), TensorFile(tmp_path / "file", layout) as file:
        file.write("a", torch.ones(2))
    with pytest.raises(AssertionError, match="a"), TensorFile(tmp_path / "file", layout) as file:
        file.write("a", torch.ones(3))
