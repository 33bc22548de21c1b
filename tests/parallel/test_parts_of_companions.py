"""Teachers, references, reward and value models are cut as the trained model is: each rank has its part of them, from the beginning on."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_files import read_json
from tiny_runs import Before, Done, Process, pretrain, raising, run_here
from two_ranks import assert_close_checkpoints, ended, losses, start_ranks, write_prompts_and_pairs

from tfkit.alignment.rollout_loader import RolloutLoader
from tfkit.engine.planning.tensor_meter import TensorMeter
from tfkit.model.stack import Block
from tfkit.training.step import Stepper

STEPS = 2
MODEL = "{preset: gpt2, decoder_layers: 8, dim: 64, num_heads: 4, context_length: 32}"
COMMON = """
data: {train: [{path: ROWS}]}
optimizer: {lr: 1e-3, clip_norm: null}
training: {steps: 2, batch_size: 4, micro_batch_size: 2, precision: fp32}
evaluation: {every: null}
carbon: {enabled: false}
"""
STUDENT = f"model: {MODEL}\n"
TEACHER = "tokenizer: {path: base}\nobjective: {kind: distillation, teacher: base, of: {kind: causal_lm}"
TEXT, PROMPTS, PAIRS = (COMMON.replace("ROWS", rows) for rows in ("corpus", "prompts.jsonl", "pairs.jsonl"))
RECIPES = {
    "teacher": f"{STUDENT}{TEACHER}}}\n{TEXT}",
    "rounded": f"{STUDENT}{TEACHER.replace('teacher: base', 'teacher: updates')}}}\n{TEXT.replace('fp32', 'bf16')}",
    "copied": f"{STUDENT.replace('layers: 8', 'layers: 7')}{TEACHER}, copy_layers: [0, 1, 2, 3, 4, 5, 7]}}\n{TEXT}",
    "dpo": f"model: {{from: base}}\nobjective: {{kind: dpo}}\n{PAIRS}",
    "adapter": f"model: {{from: updates}}\nobjective: {{kind: causal_lm}}\n{TEXT}",
    "ppo": "model: {from: base}\nobjective: {kind: ppo, rules: [{kind: contains, text: a}], reward: scores, value: scores, value_lr: 3e-3, "
    f"prompts: 4, completions: 2, inner_epochs: 1, max_new_tokens: 5, kl_target: 0.5, kl_horizon: 100}}\n{PROMPTS}",
}
MADE = {
    "scores": f"model: {{from: base}}\nobjective: {{kind: reward}}\n{PAIRS}",
    "updates": f"model: {{from: base}}\nobjective: {{kind: causal_lm}}\n{TEXT}",
}


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    write_prompts_and_pairs(base)
    for name, text in (RECIPES | MADE).items():
        (base / f"{name}.yaml").write_text(text, encoding="utf-8")
    assert pretrain(base / "base", base / "tiny.yaml", f"model={MODEL}", "training.steps=2", "training.precision=fp32").code == 0
    with contextlib.chdir(base):
        for name, words in (("scores", []), ("updates", ["training.adapter={rank: 2}"])):
            run_here(["finetune", f"{name}.yaml", "--run", name, "--threads", "1", *words]).exits(0)
    return base


def measuring(path: Path) -> Callable[[], None]:
    """Return a fault that is none: the most bytes of tensors at once before the first step and before responses are sampled, and in the
    first step those of the parameters of all models. The process has a cache of its own: none finds what the reference of DPO says of rows.
    """

    def before() -> None:
        os.environ["TFKIT_CACHE"] = str(path.with_suffix(""))
        take, sample, meter = Stepper.take, RolloutLoader._sample, TensorMeter()
        found: dict[str, int] = {}

        def begun() -> None:
            if "begin" not in found:
                meter.__exit__(None, None, None)
                found["begin"] = meter.mark()

        def sampled(self: RolloutLoader, iteration: int) -> Any:
            begun()
            return sample(self, iteration)

        def taken(self: Stepper, step: int, *arguments: Any) -> Any:
            begun()
            models = [self.model, *(one.model for one in self.objective.companions)]
            parameters = [getattr(one, "_local_tensor", one) for model in models for one in model.parameters()]
            found["parameters"] = sum(one.numel() * one.element_size() for one in parameters)
            path.write_text(json.dumps(found), encoding="utf-8")
            return take(self, step, *arguments)

        Stepper.take, RolloutLoader._sample = taken, sampled
        meter.__enter__()

    return before


def command(recipe: str, run: str, *words: str) -> list[str]:
    started = "pretrain" if RECIPES[recipe].startswith("model: {preset") else "finetune"
    return [started, f"{recipe}.yaml", "--run", run, "--threads", "1", *words]


def run_both(
    recipe: str, *words: str, names: str, code: int = 0, size: int = 2, faults: Mapping[Any, Callable[[], None]] | None = None
) -> list[Done]:
    """Run a recipe alone, whose fault is that of None, and on ranks, into the folders NAMES-one and NAMES-two; return the ends of ranks."""
    alone = Process(Path.cwd(), command(recipe, f"{names}-one", *words), (faults or {}).get(None)).wait()
    ranks = start_ranks(Path.cwd(), command(recipe, f"{names}-two", "parallel.shard=2", *words), faults, size)
    return ended([alone, *ranks], code)[1:]


def assert_same_steps(names: str) -> None:
    assert_close_checkpoints(*(Path(f"{names}-{run}/checkpoints/step-000002") for run in ("one", "two")))


@pytest.mark.sampled(99)
@pytest.mark.parametrize("recipe", RECIPES)
def test_ranks_begin_with_parts_and_take_the_steps_of_one_process(place: Path, recipe: str, in_place: None) -> None:
    """Also from an adapter, with an adapter as a teacher, which is rounded after its updates, and with copied layers. The reference of a
    policy is cut, too.
    """
    files = {rank: place / f"{recipe}-{name}.json" for rank, name in ((None, "one"), (0, "0"), (1, "1"))}
    run_both(recipe, names=recipe, faults={rank: measuring(file) for rank, file in files.items()})
    one, first, second = (read_json(file) for file in files.values())
    assert max(first["begin"], second["begin"]) < 0.68 * one["begin"], (one, first, second)
    held = one["parameters"] / 2
    if recipe == "rounded":  # one process computes with a rounded copy of the student, ranks round what they gather of its parts
        held += one["parameters"] / 4
    assert first["parameters"] == pytest.approx(held, rel=0.01)
    assert_same_steps(recipe)


@pytest.mark.thorough
def test_a_teacher_that_does_not_fit_on_one_rank_halves_the_micro_batches_of_all(place: Path, in_place: None) -> None:
    """The other rank waits for its part of the teacher's weights then."""
    full = Before(Block, "forward", raising(MemoryError("no more")), 8 + 3)  # the student has eight blocks
    words = ["training.batch_size=16", "training.micro_batch_size=null"]
    done = run_both("teacher", *words, names="large", faults={1: full})
    assert all("out of memory in micro-batches of 8 rows: from now on they have 4" in one.err for one in done)
    assert losses(place / "large-two") == pytest.approx(losses(place / "large-one"), rel=1e-5)


@pytest.mark.thorough
def test_a_step_that_is_not_finite_is_recorded_with_the_whole_weights_of_the_value_model(place: Path, in_place: None) -> None:
    run_both("ppo", "optimizer.lr=1e30", "schedule.warmup_steps=0", "checkpoint.every=1", names="ruined", code=6)
    one, two = (read_json(place / f"ruined-{name}" / "replay" / "step-000002.json") for name in ("one", "two"))
    assert one["weights_sha256"] == two["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["copied", "ppo"])
def test_four_ranks_in_two_replicas_take_the_steps_of_one_process(recipe: str, in_place: None) -> None:
    run_both(recipe, "training.micro_batch_size=1", names=f"{recipe}-4", size=4)
    assert_same_steps(f"{recipe}-4")
