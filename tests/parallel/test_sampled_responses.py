"""PPO and GRPO on two ranks, which sample, reward and read their responses together: each step is that of one process, to the bit."""

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Before, exact, hashes, pretrain, raising, run_here, strike
from two_ranks import assert_close_checkpoints, ended, start_ranks, write_prompts_and_pairs

from tfkit.__main__ import main
from tfkit.alignment import response_sampling
from tfkit.parallel.sharding import AgreedCollective, Sharding

COMMON = """
model: {from: base}
data: {train: [{path: prompts.jsonl}], validation: [{path: prompts.jsonl}]}
optimizer: {lr: 5e-3}
training: {steps: 6, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 1}
checkpoint: {every: 2, keep: 9}
evaluation: {every: 3}
carbon: {enabled: false}
objective:
"""
OBJECTIVES = {
    "grpo": "{kind: grpo, rules: [{kind: contains, text: a}], prompts: 2, completions: 4, inner_epochs: 2, max_new_tokens: 5, beta: 0.1}",
    "ppo": """{kind: ppo, rules: [{kind: contains, text: a}], reward: scores, value: critic, value_lr: 3e-3, prompts: 4, completions: 2,
   inner_epochs: 2, max_new_tokens: 5, kl_target: 0.5, kl_horizon: 100}""",
}
REWARD = """
model: {from: base}
data: {train: [{path: pairs.jsonl}]}
objective: {kind: reward}
training: {steps: 2, batch_size: 4, precision: fp32}
carbon: {enabled: false}
"""
STEPS = 6


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    write_prompts_and_pairs(base)
    for name, objective in OBJECTIVES.items():
        (base / f"{name}.yaml").write_text(f"{COMMON}  {objective}\n", encoding="utf-8")
    (base / "reward.yaml").write_text(REWARD, encoding="utf-8")
    with contextlib.chdir(base):
        assert pretrain(base / "base", base / "tiny.yaml", "training.steps=2").code == 0
        run_here(["finetune", "reward.yaml", "--run", "scores", "--threads", "1"]).exits(0)
    shutil.copytree(base / "scores" / "checkpoints" / "step-000002", base / "critic")
    return base


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_ranks_sample_and_train_as_one_process_also_resumed(place: Path, kind: str, in_place: None) -> None:
    """Responses are drawn by their number, rewards and log-probabilities come to both."""
    words = ["finetune", f"{kind}.yaml", "--threads", "1", "--run"]
    run_here([*words, f"{kind}-alone"]).exits(0)
    ended(start_ranks(place, [*words, f"{kind}-two"], {1: strike(signal.SIGTERM, 3)}), 143)
    ended(start_ranks(place, ["resume", f"{kind}-two", "--threads", "1"]), 0)
    assert hashes(Path(f"{kind}-two"), STEPS) == hashes(Path(f"{kind}-alone"), STEPS)
    assert exact(Path(f"{kind}-two")) == exact(Path(f"{kind}-alone"))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_ranks_that_share_the_policy_have_it_whole_while_they_sample(place: Path, kind: str, in_place: None) -> None:
    """Each then writes responses of its own lengths. They share the critic, too, whose parts a checkpoint within an iteration has whole."""
    if kind == "ppo":
        assert main(["plan", f"{kind}.yaml", "--ranks", "2", "--json"]) == 0  # as rank 0 of others, of which the forks must not know
    # Spaces are in about half of the responses; `eps` keeps AdamW from making whole steps of rounding errors.
    words = ["finetune", f"{kind}.yaml", "objective.rules=[{kind: contains, text: ' '}]", "optimizer.eps=1e-3"]
    words += ["training.steps=4", "optimizer.clip_norm=null", "--threads", "1", "--run"]
    run_here([*words, f"{kind}-whole"]).exits(0)
    ended(start_ranks(place, [*words, f"{kind}-shared", "parallel.shard=2"], {1: strike(signal.SIGTERM, 3)}), 143)
    ended(start_ranks(place, ["resume", f"{kind}-shared", "--threads", "1"]), 0)
    assert_close_checkpoints(*(place / f"{kind}-{name}" / "checkpoints" / "step-000004" for name in ("whole", "shared")))
    whole, shared = ([record.get("reward") for record in exact(place / f"{kind}-{name}")] for name in ("whole", "shared"))
    assert any(whole), "there is something to learn"
    assert shared == whole


@pytest.mark.thorough
@pytest.mark.parametrize("mesh", ["{shard: 2, reshard: false}", "{shard: 1}"])
def test_text_of_the_pretraining_is_dealt_too(place: Path, mesh: str, in_place: None) -> None:
    """Up to the order of sums: a step has more micro-batches than ranks, and the value model has no part in the last ones."""
    words = ["finetune", "ppo.yaml", "data.pretraining=[{path: corpus}]", "objective.ptx_weight=0.5", "objective.ptx_ratio=1"]
    words += ["training.steps=2", "evaluation.every=null", "--threads", "1", "--run"]
    if not Path("text-alone").exists():
        run_here([*words, "text-alone"]).exits(0)
    run = f"text-{len(mesh)}"
    ended(start_ranks(place, [*words, run, f"parallel={mesh}"]), 0)
    for one, other in zip(exact(Path("text-alone")), exact(Path(run)), strict=True):
        assert other.keys() == one.keys()
        assert [other.get(name) for name in ("step", "tokens")] == [one.get(name) for name in ("step", "tokens")]
        if "loss" in one:
            assert (other["loss"], other["grad_norm"]) == (pytest.approx(one["loss"], rel=1e-3), pytest.approx(one["grad_norm"], rel=1e-2))


@pytest.mark.thorough
def test_a_full_memory_while_one_rank_samples_is_heard_by_both(place: Path, in_place: None) -> None:
    full = Before(response_sampling, "generate", raising(MemoryError("no more")), 1)
    words = ["finetune", "grpo.yaml", "--threads", "1", "evaluation.every=null", "training.steps=2", "--run", "full"]
    words += ["objective.completions=16", "training.micro_batch_size=null"]  # two batches, one for each rank
    done = ended(start_ranks(place, words, {1: full}), 0)
    assert all("out of memory in micro-batches of 2 rows: from now on they have 1" in one.err for one in done)


def run_out_within(enter: Callable[..., AbstractContextManager[None]]) -> Callable[[], None]:
    """Return a fault: memory runs out once, as the second tensor is gathered after the entry into a context of shared weights."""

    def before() -> None:
        allocate, gathered = AgreedCollective.allocate, list[int]()  # empty until the context is entered

        def counted(self: AgreedCollective, *arguments: Any, **options: Any) -> Any:
            if gathered:
                gathered[0] += 1
                if gathered[0] == 2:
                    raise MemoryError("no more")
            return allocate(self, *arguments, **options)

        @contextmanager
        def entered(self: Sharding) -> Iterator[None]:
            gathered[:] = gathered or [0]
            with enter(self):
                yield

        AgreedCollective.allocate = counted
        setattr(Sharding, enter.__name__, entered)

    return before


def test_a_full_memory_while_one_rank_gathers_the_policy_is_heard_by_both(place: Path, in_place: None) -> None:
    """The others are about to gather the next block, and would wait for it; all begin the step again, with smaller micro-batches."""
    words = ["finetune", "grpo.yaml", "--threads", "1", "data.validation=null", "evaluation.every=null", "training.steps=2"]
    words += ["training.micro_batch_size=null", "parallel.shard=2", "--run", "gathered"]
    done = ended(start_ranks(place, words, {1: run_out_within(Sharding.unsharded)}), 0)
    assert all("out of memory in micro-batches of 2 rows: from now on they have 1" in one.err for one in done), done[0].err


def test_a_full_memory_in_an_evaluation_of_shared_weights_ends_both_ranks(place: Path, in_place: None) -> None:
    words = ["pretrain", "tiny.yaml", "--threads", "1", "training.steps=2", "evaluation.every=1", "parallel.shard=2", "--run", "evaluated"]
    done = ended(start_ranks(place, words, {1: run_out_within(Sharding.at_inference)}), 5)
    assert "memory" in done[0].err, done[0].err
