"""A teacher, and the model of the first step, on several ranks, which share the teacher, too, where they share the trained model."""

import os
from pathlib import Path

import pytest
from tiny_files import receipt, write_rows
from tiny_runs import hashes, pretrain, run_here
from two_ranks import ended, run_ranks, start_ranks

STEPS = 3
ONE_EACH = ("model.dim=32", "training={steps: 3, batch_size: 4, micro_batch_size: 2, precision: fp32}", "optimizer.clip_norm=null")
PREFERENCES = """
model: {from: BASE}
data: {train: [{path: PAIRS}], validation: [{path: PAIRS}]}
objective: {kind: dpo}
optimizer: {lr: 1e-3, clip_norm: null}
training: {steps: 3, batch_size: 4, micro_batch_size: 2, precision: fp32}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    assert pretrain(base / "teacher", base / "tiny.yaml", *ONE_EACH).code == 0
    pairs = [{"prompt": "the cat", "chosen": f"sat on {word}", "rejected": f"{word} ran"} for word in ("mat", "hat", "red", "big") * 4]
    write_rows(base / "pairs.jsonl", pairs)
    (base / "dpo.yaml").write_text(
        PREFERENCES.replace("BASE", str(base / "teacher")).replace("PAIRS", str(base / "pairs.jsonl")), encoding="utf-8"
    )
    return base


@pytest.mark.sampled(2)
@pytest.mark.parametrize("mesh", ["parallel.shard=2", "parallel.shard=1"])
def test_a_student_of_two_ranks_is_that_of_one(base: Path, tmp_path: Path, mesh: str) -> None:
    teacher = base / "teacher"
    words = (*ONE_EACH, f"tokenizer={{path: {teacher}}}", f"objective={{kind: distillation, teacher: {teacher}, of: {{kind: causal_lm}}}}")
    if not (base / "student").exists():
        assert pretrain(base / "student", base / "tiny.yaml", *words).code == 0
    ended(run_ranks(tmp_path / "run", base / "tiny.yaml", *words, mesh), 0)
    assert hashes(tmp_path / "run", STEPS) == hashes(base / "student", STEPS)


@pytest.mark.thorough
@pytest.mark.parametrize("adapter", [None, "training.adapter={rank: 2, merge: true}"])
def test_preferences_of_two_ranks_are_those_of_one(base: Path, tmp_path: Path, adapter: str | None) -> None:
    words = ["--threads", "1", *([adapter] if adapter else [])]
    start = ["finetune", str(base / "dpo.yaml"), "--run"]
    run_here([*start, str(tmp_path / "one"), *words]).exits(0)
    lacking = {1: lambda: os.environ.update(TFKIT_CACHE=str(tmp_path / "empty"))}  # rank 0 has what the reference says of the rows
    ended(start_ranks(tmp_path, [*start, str(tmp_path / "two"), *words, "parallel.shard=2"], lacking), 0)
    assert hashes(tmp_path / "two", STEPS) == hashes(tmp_path / "one", STEPS)


@pytest.mark.thorough
def test_a_head_on_a_checkpoint_whose_parts_two_ranks_read_is_that_of_one(base: Path, tmp_path: Path) -> None:
    """Its scores before the first step too, which all ranks compute together."""
    rows = [{"text": f"the {animal} sat {number}", "label": animal} for number in range(20) for animal in ("cat", "dog")]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "head.yaml").write_text(
        f"model: {{from: {base / 'teacher'}}}\ndata: {{train: [{{path: {tmp_path / 'rows.jsonl'}}}], validation: 0.3}}\n"
        "objective: {kind: classification}\noptimizer: {lr: 1e-3, clip_norm: null}\ncarbon: {enabled: false}\n",
        encoding="utf-8",
    )
    start = ["finetune", str(tmp_path / "head.yaml"), ONE_EACH[1], "--threads", "1", "--run"]
    run_here([*start, str(tmp_path / "one")]).exits(0)
    ended(start_ranks(tmp_path, [*start, str(tmp_path / "two"), "parallel.shard=2"]), 0)
    assert hashes(tmp_path / "two", STEPS) == hashes(tmp_path / "one", STEPS)
    assert receipt(tmp_path / "two")["result"]["before"] == receipt(tmp_path / "one")["result"]["before"] is not None
