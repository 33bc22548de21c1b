"""A teacher, the model of the first step and a new head on two ranks, which share the teacher, too, where they share the trained model."""

import os
from pathlib import Path

import pytest
from tiny_files import receipt, write_rows
from tiny_runs import hashes, pretrain, run_here
from two_ranks import ended, start_ranks

STEPS = 3
ONE_EACH = ["model.dim=32", "training={steps: 3, batch_size: 4, micro_batch_size: 2, precision: fp32}", "optimizer.clip_norm=null"]
RECIPE = """
model: {from: teacher}
data: {train: [{path: ROWS}], validation: 0.3}
objective: {kind: KIND}
optimizer: {lr: 1e-3, clip_norm: null}
training: {steps: 3, batch_size: 4, micro_batch_size: 2, precision: fp32}
carbon: {enabled: false}
"""
TAUGHT = "objective={kind: distillation, teacher: teacher, of: {kind: causal_lm}}"
STUDENT = ["pretrain", "tiny.yaml", *ONE_EACH, "tokenizer={path: teacher}", TAUGHT]
PREFERENCES = ["finetune", "dpo.yaml", "training.adapter={rank: 2, merge: true}"]


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    assert pretrain(base / "teacher", base / "tiny.yaml", *ONE_EACH).code == 0
    pairs = [{"prompt": f"the cat {n}", "chosen": f"sat on {word}", "rejected": f"{word} ran"} for word in ("mat", "hat") for n in range(8)]
    texts = [{"text": f"the {animal} sat {number}", "label": animal} for number in range(20) for animal in ("cat", "dog")]
    for kind, rows in (("dpo", pairs), ("classification", texts)):
        write_rows(base / f"{kind}.jsonl", rows)
        (base / f"{kind}.yaml").write_text(RECIPE.replace("KIND", kind).replace("ROWS", f"{kind}.jsonl"), encoding="utf-8")
    return base


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("words", "shard"),
    [(STUDENT, 2), (STUDENT, 1), (PREFERENCES, 2), (["finetune", "classification.yaml"], 2)],
    ids=["student", "student-1", "preferences", "head"],
)
def test_two_ranks_are_one_to_the_bit(words: list[str], shard: int, place: Path, in_place: None) -> None:
    """Rank 1 lacks what the cache of rank 0 has, such as the reference's log-probabilities; all compute a head's scores before step 1."""
    one, two = f"{Path(words[1]).stem}-one", f"{Path(words[1]).stem}-{shard}"
    if not Path(one).exists():
        run_here([*words, "--threads", "1", "--run", one]).exits(0)
    lacking = {1: lambda: os.environ.update(TFKIT_CACHE=str(place / "empty" / two))}
    ended(start_ranks(place, [*words, "--threads", "1", f"parallel.shard={shard}", "--run", two], lacking), 0)
    assert hashes(Path(two), STEPS) == hashes(Path(one), STEPS)
    before = [receipt(run)["result"]["before"] for run in (one, two)]
    assert before[0] == before[1]
    assert bool(before[0]) == (words[0] == "finetune")
