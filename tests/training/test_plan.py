"""How long a run is, and in what pieces: what the recipe leaves to be worked out."""

import pytest
import torch
from tiny_training import batches, fresh, stepper, stream

from tfkit.adapters import Merged, add_lora, freeze
from tfkit.adapters.peft_files import to_peft
from tfkit.data import PackedRows
from tfkit.engine.assembly import memory_plan
from tfkit.engine.assembly.components import batch_sizes, total_steps
from tfkit.engine.assembly.memory_plan import disk_bytes, require_memory_for_blocks, run_memory, trained_numel
from tfkit.engine.assembly.training_state import state_tensors
from tfkit.errors import MachineError
from tfkit.objectives.causal_lm import CausalLM
from tfkit.parallel.ranks import Ranks
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.optimizer_sections import AdafactorSection, AdamWSection, MuonSection, OptimizerSection
from tfkit.recipe.schema.sections import LoraSection, ModelSection, ParallelSection, Recipe, TrainingSection

ROWS = PackedRows([(stream(), 1.0)], 12, seed=1)


def recipe(**training: object) -> Recipe:
    data = DataSection(train=[SourceSection(stdlib=True)])
    return Recipe(model=ModelSection(preset="gpt2"), data=data, training=TrainingSection.model_validate(training))


def test_length() -> None:
    for training, steps in (
        ({"steps": 7}, 7),
        ({"tokens": 12 * 8, "batch_size": 8}, 1),
        ({"tokens": 12 * 8 + 1, "batch_size": 8}, 2),  # rounded up to whole steps
        ({"epochs": 1, "batch_size": 1}, len(ROWS)),
        ({"epochs": 2, "batch_size": len(ROWS)}, 2),
        ({"epochs": 0.001, "batch_size": 8}, 1),
    ):
        wanted = recipe(**training)
        assert total_steps(wanted, ROWS, batch_sizes(wanted, ROWS)) == steps, training


@pytest.mark.parametrize(("local", "size", "shard", "copies"), [(1, 1, 4, 1.0), (2, 2, 1, 2.0), (2, 2, 2, 1.0), (4, 16, 16, 0.25)])
def test_a_machine_must_hold_the_parts_of_its_ranks(local: int, size: int, shard: int, copies: float) -> None:
    """One process of a recipe for many has all by itself."""
    wanted = recipe(steps=1).model_copy(update={"parallel": ParallelSection(shard=shard)})
    assert Ranks(size=size, local_size=local).copies_on_machine(wanted.parallel.shard) == copies


def test_what_a_machine_holds_decides_whether_a_model_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "available_bytes", lambda swap: 1_000_000_000)  # GPT-2 124M needs 1.9 GB with AdamW
    require_memory_for_blocks(recipe(steps=1), torch.device("cpu"), 0.5)
    with pytest.raises(MachineError, match="GB are free"):
        require_memory_for_blocks(recipe(steps=1), torch.device("cpu"), 1.0)


@pytest.mark.parametrize(
    "optimizer", [AdamWSection(), AdafactorSection(kind="adafactor"), MuonSection(kind="muon")], ids=lambda one: one.kind
)
@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_planned_bytes_are_those_of_the_tensors_that_are_saved(optimizer: OptimizerSection, decay: float | None) -> None:
    taking = stepper(fresh(), section=optimizer, ema_decay=decay)
    taking.take(1, batches(CausalLM(), 4), 1.0)
    saved = state_tensors(taking.weights, taking.optimizer)
    numbers = sum(tensor.numel() for tensor in taking.weights.result.values())
    numbers += sum(tensor.numel() for tensor in saved.values())
    wanted = recipe(steps=9, ema_decay=decay).model_copy(update={"optimizer": optimizer})
    assert disk_bytes(wanted, taking.model, CausalLM()) == 4 * numbers * (wanted.checkpoint.keep + 2)


@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("merge", [False, True])
def test_of_an_adapter_only_what_is_trained_takes_room(decay: float | None, merge: bool) -> None:
    """The file of a fused matrix holds zeros, too: q and v of q|k|v take twice the room, and that is the worst."""
    model, section = fresh(), LoraSection(rank=2, merge=merge)
    add_lora(model, section, seed=1)
    taking = stepper(model, section=AdamWSection(), ema_decay=decay)
    taking.take(1, batches(CausalLM(), 4), 1.0)
    saved = state_tensors(taking.weights, taking.optimizer, factors=True)
    numbers = sum(tensor.numel() for tensor in saved.values())
    if merge:
        numbers += sum(tensor.numel() for tensor in Merged(model, taking.weights.result).values()) + trained_numel(model)
    else:
        peft = to_peft({name: taking.weights.result[name] for name in taking.weights.trained}, "gpt2", model.config)
        numbers += sum(tensor.numel() for tensor in peft.tensors.values())
    wanted = recipe(steps=9, ema_decay=decay, adapter=section.model_dump())
    assert disk_bytes(wanted, model, CausalLM()) == 4 * numbers * (wanted.checkpoint.keep + 2)


def test_what_is_frozen_has_no_gradient_no_state_and_no_mean() -> None:
    model = fresh()
    freeze(model, ["embedding.*", "decoder.blocks.0.*"])
    for decay in (None, 0.9):
        wanted = recipe(steps=9, ema_decay=decay)
        parts = [one.numel() for name, one in model.named_parameters() if name.startswith(("decoder.blocks.1", "decoder.n"))]
        trained, counters = sum(parts), len(parts)
        assert trained_numel(model) == trained
        memory = run_memory(wanted, CausalLM(), model, torch.float32)
        assert (memory.in_step, memory.to_create) == (4 * trained, 4 * (trained * (2 if decay is None else 3) + counters))
