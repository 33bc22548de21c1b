"""The model of a command that does not train, on the device of its rank, with the tokenizer that it needs."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfkit.engine.inference.session import Session
    from tfkit.engine.request.evaluation_settings import EvaluationSettings
    from tfkit.engine.request.inputs import Inputs
    from tfkit.generation.answer_precision import Opened, Precision
    from tfkit.recipe.reading.overrides import Overrides


def open_model(folder: Path, work: "Session", inputs: "Inputs", precision: "Precision", *, packs: bool = True) -> "Opened":
    """Load a model in this precision, on the device and with the threads of the session, once all ranks have the same of it and of the
    command's other inputs. `packs`: lay out the weights of a large one for a CPU, by which sums are rounded in another order.

    Raises ModelError, DataError, and MachineError for a precision that the device does not have.
    """
    import torch

    from tfkit.adapters import load
    from tfkit.generation.answer_precision import is_large, open_in_precision
    from tfkit.model.answering_linear import can_pack, pack
    from tfkit.training.device import has_bf16, pick_device

    if not work.ranks.is_alone:
        from tfkit.engine.assembly.rank_inputs import files_on_rank, require_same_inputs

        require_same_inputs([*files_on_rank(folder, inputs)], work.exchange)
    if work.threads is not None:
        torch.set_num_threads(work.threads)
    device = pick_device(work.device)
    opened = open_in_precision(
        lambda dtype: load(folder, device=device, dtype=dtype),
        precision,
        device,
        lambda allowed: all(work.exchange(allowed)),
        has_bf16=has_bf16(device),
    )
    for sentence in [*opened.loaded.notes(), *filter(None, [opened.described()])]:
        work.listener.say(sentence)
    if packs and opened.precision != "int8" and can_pack(device) and is_large(opened.loaded.model):
        pack(opened.loaded.model)
    return opened


def own_precision(settings: "EvaluationSettings") -> "Precision":
    """Return the precision that the settings of an evaluation name."""
    return "float32" if settings.evaluation.precision == "float32" else "bf16"


def named_precision(settings: "EvaluationSettings", overrides: "Overrides", precision: "Precision") -> "Precision":
    """Return the precision of a command; in place of auto the evaluation.precision among its overrides, if it is there."""
    return own_precision(settings) if "evaluation.precision" in overrides and precision == "auto" else precision
