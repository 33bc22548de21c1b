"""Several companions of one objective: the memory of all, their pinned hashes, and the cost of a trained one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from tiny_examples import ENCODER, model

from tfkit.engine.assembly import memory_plan
from tfkit.engine.assembly.memory_plan import require_memory_for_companions
from tfkit.errors import MachineError
from tfkit.objectives.companion import Companion
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.training.memory import companion_bytes_per_row, trained_bytes


class TwoSection(ObjectiveSection):
    """A section that is not declared, so that no recipe can have it."""

    kind: Literal["two"] = "two"
    reference: str = "frozen"
    reference_sha256: str | None = None
    value: str | None = "learning"
    value_sha256: str | None = None

    companions: ClassVar[Mapping[str, bool]] = {"reference": False, "value": True}


def test_they_need_room_together_and_a_trained_one_its_gradient_and_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "find_checkpoint", Path)
    monkeypatch.setattr(memory_plan, "_count_parameters", lambda folder: 1_000)
    room = 4 * 1_000 + trained_bytes(1_000, torch.float32)
    for fields, needed, said in (
        ({}, room, "the 1,000 weights of the value learning need 1.6e-05 GB of memory, and 1.6e-05 GB are free"),
        ({"value": None}, 4 * 1_000, "of the reference frozen need"),
    ):
        section: Any = SimpleNamespace(objective=TwoSection(**fields))
        monkeypatch.setattr(memory_plan, "available_bytes", lambda swap=False, free=needed: free)
        require_memory_for_companions(section)
        monkeypatch.setattr(memory_plan, "available_bytes", lambda swap=False, free=needed - 1: free)
        with pytest.raises(MachineError, match=said):
            require_memory_for_companions(section)


def test_each_has_a_pin_of_its_own() -> None:
    section = TwoSection()
    assert section.companion_paths == {"reference": "frozen", "value": "learning"}
    assert section.pins == {"reference": None, "value": None}
    pinned = section.pinned({"reference": "a", "value": "b"})
    assert (pinned.pins, pinned.reference, pinned.value) == ({"reference": "a", "value": "b"}, "frozen", "learning")


def test_a_trained_one_takes_the_memory_of_another_frozen_one_for_its_forward() -> None:
    frozen = Companion("reference", model(ENCODER), "frozen", "a" * 64)
    objective: Any = SimpleNamespace(companions=(frozen, replace(frozen, name="value", trained=True)))
    one = companion_bytes_per_row(SimpleNamespace(companions=(frozen,)), 16, 4)
    assert companion_bytes_per_row(objective, 16, 4) == 2 * one  # what autograd keeps is measured with the model
    assert [one.parent()["role"] for one in objective.companions] == ["reference", "value"]
