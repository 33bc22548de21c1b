"""The model of a command that does not train, on the device of its rank, with the tokenizer that it needs."""

from pathlib import Path
from typing import TYPE_CHECKING

from tfkit.errors import ModelError

if TYPE_CHECKING:
    from tfkit.engine.inputs import Inputs
    from tfkit.engine.session import Session
    from tfkit.hub import Described, Loaded
    from tfkit.tokenizer import Tokenizer


def open_model(folder: Path, work: "Session", inputs: "Inputs", precision: str = "float32") -> "Loaded":
    """Load a model in this precision, on the device and with the threads of the session, once all ranks have the same of it and of the
    command's other inputs. Raises ModelError and DataError.
    """
    import torch

    from tfkit.adapters import load
    from tfkit.training.device import pick_device

    if not work.ranks.is_alone:
        from tfkit.engine.rank_inputs import files_on_rank, require_same_inputs

        require_same_inputs([*files_on_rank(folder, inputs)], work.exchange)
    if work.threads is not None:
        torch.set_num_threads(work.threads)
    return load(folder, device=pick_device(work.device), dtype=getattr(torch, precision))


def own_tokenizer(model: "Described | Loaded") -> "Tokenizer":
    """Return the tokenizer of a model folder. Raises ModelError if it has none."""
    if model.codec is None:
        raise ModelError(f"{model.folder}: no tokenizer.json here, and no text can be read without; put the model's own beside it")
    return model.codec
