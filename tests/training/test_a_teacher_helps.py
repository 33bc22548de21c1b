"""The purpose of distillation: with little text, a student learns more from its teacher's probabilities than from the next tokens."""

import numpy as np
import pytest
import torch
from tiny_training import GPT2, config, stepper

from tfkit.data import Loader, PackedRows, TokenStream
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.distillation import Distillation
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection

ENTRIES = 53


def stream(documents: int, seed: int) -> TokenStream:
    """Documents from a Markov chain in which a few of 53 tokens follow each; all streams have the same chain."""
    chain = np.random.default_rng(0).dirichlet(np.full(ENTRIES, 0.1), size=ENTRIES)
    random = np.random.default_rng(seed)
    found = []
    for length in random.integers(5, 30, documents):
        ids = [int(random.integers(1, ENTRIES))]
        while len(ids) < length:
            ids.append(int(random.choice(ENTRIES, p=chain[ids[-1]])))
        found.append(np.array(ids, np.uint16))
    lengths = np.array([len(ids) for ids in found])
    starts = np.concatenate([[0], lengths.cumsum()])
    return TokenStream("made", np.concatenate(found), starts, lengths, separator=0, max_id=ENTRIES - 1, fingerprint="made", cached=False)


def train(model: Transformer, objective: CausalLM | Distillation, text: TokenStream, steps: int) -> Transformer:
    taking = stepper(model, objective=objective, section=AdamWSection(lr=1e-2, weight_decay=0.0))
    loader = Loader(PackedRows([(text, 1.0)], 12, 1), objective.collate, 8, 8)
    for step in range(steps):
        taking.take(step + 1, loader.step(step), 1 - step / steps)
    return model.eval()


@torch.no_grad()
def judge(model: Transformer, text: TokenStream) -> float:
    """Nats a token."""
    objective, rows = CausalLM(), PackedRows([(text, 1.0)], 12, 1)
    batch = objective.collate(rows.gather(np.zeros(len(rows), np.int64), np.arange(len(rows))))
    return objective.metrics(objective.measure(model, batch))["loss"]


@pytest.mark.thorough
def test_a_student_of_little_text_is_better_with_its_teacher() -> None:
    """The same student, rows, order and steps. Over four seeds the gain was 0.30 to 0.33 nats."""
    much, little, held_out = stream(600, seed=4), stream(60, seed=14), stream(200, seed=24)
    teacher = train(build(config(GPT2, init={"std": 0.05}), seed=4), CausalLM(), much, 200)
    section = DistillationSection.model_validate({"kind": "distillation", "teacher": "made", "of": {"kind": "causal_lm"}})
    taught = Distillation(section, CausalLM(), Companion("teacher", teacher.requires_grad_(False), "made", "0" * 64))
    losses = []
    for objective in (CausalLM(), taught):
        student = build(config(GPT2, dim=12, num_heads=2, decoder_layers=1, init={"std": 0.05}), seed=9)
        losses.append(judge(train(student, objective, little, 60), held_out))
    assert judge(teacher, held_out) < losses[1] < losses[0] - 0.15
