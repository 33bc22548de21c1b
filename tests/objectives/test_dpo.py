"""DPO against its formula: a first loss of ln 2, the gradient in float64, the sign, any micro-batches; several completions of a prompt."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_examples import judged, model, stored, whole_batch
from tiny_preferences import DECODER, count_rows_read, dpo_objective, paired_rows, ranked_rows
from torch import Tensor

from tfkit.data import ExampleSet
from tfkit.engine.assembly.reference_model import with_reference
from tfkit.engine.listener import Silent
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import IGNORED, Batch

PLAIN = DECODER | {"norm": {"kind": "layer"}}  # whose norms compute in float64, too


def referenced(found: ExampleSet, objective: Any, reference: Transformer, key: str) -> ExampleSet:
    return with_reference(found, objective, reference.eval(), key, 3, Silent())


def referenced_batch(folder: Path, objective: Any, rows: list[dict[str, Any]], reference: Transformer, key: str) -> Batch:
    return whole_batch(referenced(stored(folder, rows, objective), objective, reference, key), objective)


def log_probs(policy: Transformer, batch: Batch) -> Tensor:
    """Return the log-probability of each completion, by the definition."""
    values = policy(**batch.inputs()).logits.log_softmax(-1)
    kept = batch.labels != IGNORED
    return (values.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0] * kept).sum(-1)


def test_the_loss_is_ln_2_where_the_policy_is_the_reference(tmp_path: Path) -> None:
    objective, policy = dpo_objective(), model(DECODER)
    batch = referenced_batch(tmp_path, objective, ranked_rows(8), policy, "same")
    loss, metrics = judged(policy.eval(), objective, batch)
    assert float(loss) == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["reward_chosen"] == pytest.approx(0, abs=1e-5)
    other, _ = judged(model(DECODER | {"init": {"std": 0.1}}).eval(), objective, batch)
    assert float(other) != pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_is_that_of_the_formula_in_float64(tmp_path: Path, smoothing: float) -> None:
    objective = dpo_objective(beta=0.3, label_smoothing=smoothing)
    batch = referenced_batch(tmp_path, objective, paired_rows(6), model(PLAIN), "other")
    policy = model(PLAIN | {"init": {"std": 0.2}}).eval()
    loss = objective.loss(policy, batch)["dpo"]
    loss.backward()
    exact, reference = model(PLAIN | {"init": {"std": 0.2}}).eval().double(), model(PLAIN).eval().double()
    with torch.no_grad():
        before = log_probs(reference, batch)
    chosen, rejected = (0.3 * (log_probs(exact, batch) - before)).reshape(-1, 2).T
    expected = (-(1 - smoothing) * F.logsigmoid(chosen - rejected) - smoothing * F.logsigmoid(rejected - chosen)).sum()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, ours), theirs in zip(policy.named_parameters(), exact.parameters(), strict=True):
        assert float((ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()) < 1e-5, name


def test_swapping_the_two_flips_the_sign(tmp_path: Path) -> None:
    objective, policy = dpo_objective(beta=1.0), model(DECODER | {"init": {"std": 0.2}}).eval()

    def metrics(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
        return judged(policy, objective, referenced_batch(tmp_path, objective, rows, model(DECODER), key))[1]

    first = metrics(paired_rows(6), "as given")
    second = metrics([{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in paired_rows(6)], "swapped")
    assert first["margin"] == pytest.approx(-second["margin"], abs=1e-4)
    assert abs(first["margin"]) > 0.1
    assert first["accuracy"] == pytest.approx(1 - second["accuracy"])
    assert first["reward_chosen"] == pytest.approx(second["reward_rejected"], abs=1e-4)


def test_the_reference_reads_each_row_once_and_is_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, policy = dpo_objective(), model(DECODER)
    found = stored(tmp_path, paired_rows(5), objective)
    read = count_rows_read(monkeypatch)
    first = referenced(found, objective, policy, "once")
    assert sum(read) == 10
    again = referenced(found, objective, policy, "once")
    assert sum(read) == 10  # from the cache
    assert again[3]["reference"].tolist() == first[3]["reference"].tolist()
    referenced(found, objective, policy, "other weights")
    referenced(replace(found, fingerprint="other rows"), objective, policy, "once")
    assert sum(read) == 30
    changed = referenced(found, objective, model(DECODER | {"position": {"kind": "rotary", "theta": 100.0}}), "once")
    assert sum(read) == 40  # the same weights compute other values
    assert changed[3]["reference"].tolist() != first[3]["reference"].tolist()
    policy.eval()
    batch = whole_batch(found, objective)
    expected = log_probs(policy, batch).detach().reshape(5, 2)
    np.testing.assert_allclose([first[number]["reference"] for number in range(5)], expected.numpy(), atol=1e-4)
