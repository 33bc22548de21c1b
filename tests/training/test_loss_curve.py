"""The loss curve of a plain loop: Hugging Face's model, torch's AdamW, cross_entropy and clip_grad_norm_, and nothing of ours."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_training import GPT2, LLAMA, fresh, stepper, stream

from tfkit.data import Loader, PackedRows
from tfkit.hub import save_model
from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema.optimizer_sections import AdamWSection, ScheduleSection
from tfkit.training.schedule import Schedule

STEPS, WARMUP, BATCH, LENGTH = 20, 4, 6, 12
LR, BETAS, EPS, DECAY, CLIP = 1e-2, (0.8, 0.97), 1e-6, 0.3, 0.5


def ours(values: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Losses and gradient norms over the steps."""
    objective = CausalLM("joined")
    section = AdamWSection(lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, clip_norm=CLIP)
    taking = stepper(fresh(values), objective=objective, section=section)
    loader = Loader(PackedRows([(stream(), 1.0)], LENGTH, seed=9), objective.collate, BATCH, micro_batch_size=2)
    schedule = Schedule(ScheduleSection(kind="cosine", warmup_steps=WARMUP, final_ratio=0.1), STEPS)
    reports = [taking.take(step + 1, loader.step(step), schedule.factor(step + 1)) for step in range(STEPS)]
    return [report.loss for report in reports], [report.grad_norm for report in reports]


def plain(folder: Path) -> tuple[list[float], list[float]]:
    """The same in the fewest words: whole batches, means, no micro-batches."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    rows = PackedRows([(stream(), 1.0)], LENGTH, seed=9)
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        epochs, places = np.divmod(np.arange((step - 1) * BATCH, step * BATCH), len(rows))
        numbers = np.array([rows.order(epoch)[place] for epoch, place in zip(epochs.tolist(), places, strict=True)])
        ids = torch.from_numpy(rows.gather(epochs, numbers).ids)
        loss = F.cross_entropy(model(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        done = (step - WARMUP) / (STEPS - WARMUP)
        share = step / WARMUP if step <= WARMUP else 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = LR * share
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms


@pytest.mark.parametrize("values", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_the_curve_of_a_plain_loop(values: dict[str, Any], tmp_path: Path) -> None:
    model = fresh(values)
    save_model(tmp_path, model.config, model.state_dict(), None)
    losses, norms = ours(values)
    their_losses, their_norms = plain(tmp_path)
    assert losses == pytest.approx(their_losses, abs=1e-4)
    assert norms == pytest.approx(their_norms, rel=1e-3)
    assert losses[0] - losses[-1] > 0.5  # it did learn, and not a little
    assert max(norms) > CLIP  # and the clipping was at work
