"""Memory and traffic of simulated steps, compared with real steps of two ranks (gloo), and extrapolated from shallower models."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import read_json
from tiny_plans import RECIPES, read_recipe_of, recipe_of
from tiny_runs import pretrain, write_corpus, write_recipe
from two_ranks import ended, run_ranks

import tfkit
from tfkit.engine.planning import simulated_step
from tfkit.engine.planning.simulated_step import Mesh
from tfkit.engine.planning.tensor_meter import TensorMeter
from tfkit.model.config import ModelConfig
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.training.step import Stepper

# Large enough that tensors which a plan omits, such as prefetched rows, do not matter.
SIZES: dict[str, Any] = {"dim": 96, "context_length": 128}
GPT2: dict[str, Any] = {"model": {"preset": "gpt2", "decoder_layers": 5, "num_heads": 4, "dropout": {"residual": 0.1}} | SIZES}
LLAMA: dict[str, Any] = {
    "model": {"preset": "llama2-7b", "decoder_layers": 3, "num_heads": 6, "num_kv_heads": 2, "hidden_dim": 160} | SIZES
}
EXPERTS = {"model": LLAMA["model"] | {"mlp": {"experts": {"count": 3, "active": 2, "hidden_dim": 96, "layers": [True, False]}}}}
STEPS = {"training.steps": 5, "training.batch_size": 4, "training.micro_batch_size": 2, "evaluation.every": None, "training.log_every": 1}
SMALL: dict[str, Any] = {"vocab_size": 64, "context_length": 12, "dim": 32, "num_heads": 4}
SMALL |= {"head": {"tied": True}, "mlp": {"activation": "relu"}, "norm": {"kind": "rms"}}
ROTARY = SMALL | {"position": {"kind": "rotary"}}
SHARDED, BF16 = {"parallel.shard": 2}, {"training.precision": "bf16"}
TAUGHT = {"objective": {"kind": "distillation", "teacher": "teacher", "of": {"kind": "causal_lm"}}, "tokenizer": {"path": "teacher"}}


def measuring(path: Path) -> Callable[[], None]:
    """Return a fault that does no harm: it measures the tensors that a rank holds, and peak and traffic of each step but the first.

    A step whose rows have one document each needs no mask, and so less memory. The minimum of equal steps counts, since a busy thread of
    gloo may free what it sent late.
    """

    def before() -> None:
        take, peaks = Stepper.take, dict[bool, int]()

        def measured(self: Stepper, step: int, batches: Sequence[Batch], *arguments: Any) -> Any:
            if step == 1:
                return take(self, step, batches, *arguments)
            with TensorMeter() as meter:
                for weights in self.all_weights.values():
                    for tensor in (*weights.master.values(), *weights.working.values(), *weights.mean.values()):
                        meter.add(tensor)
                for tensor in (
                    *self.optimizer.state().values(),
                    *(state for each in self.companions.values() for state in each.optimizer.state().values()),
                    *(parameter for each in self.objective.companions for parameter in each.model.parameters()),
                ):
                    meter.add(tensor)
                held = meter.live
                report = take(self, step, batches, *arguments)
            masked, peak = any(batch.document_ids is not None for batch in batches), meter.mark()
            peaks[masked] = min(peaks.get(masked, peak), peak)
            found = {"held": held, "peak": max(peaks.values()), "sent": sum(meter.sent.values())}
            path.write_text(json.dumps(found), encoding="utf-8")
            return report

        Stepper.take = measured

    return before


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        (GPT2 | SHARDED, "sharded"),
        (GPT2, "replicated"),
        (LLAMA | SHARDED | BF16 | {"training.activation_checkpointing": True}, "sharded"),
        pytest.param(LLAMA | BF16 | {"training.ema_decay": 0.9}, "replicated", marks=pytest.mark.slow),
        (LLAMA | SHARDED | {"optimizer": {"kind": "muon", "lr": 1e-3}, "parallel.reshard": False}, "sharded"),
        (EXPERTS | SHARDED, "sharded"),
        pytest.param(GPT2 | SHARDED | BF16 | TAUGHT, "sharded", marks=pytest.mark.slow),
    ],
    ids=["gpt2-sharded", "gpt2", "llama-bf16-sharded", "llama-bf16", "llama-muon-sharded", "experts-sharded", "taught"],
)
def test_two_real_ranks_hold_and_send_the_planned_bytes(changes: dict[str, Any], layout: str, tmp_path: Path, in_tmp_path: None) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    changes = STEPS | changes
    if "objective" in changes:  # a teacher that is larger than the student
        words = (f"model={json.dumps(GPT2['model'] | {'decoder_layers': 9})}", "training.steps=2", "evaluation={every: null}")
        assert pretrain(tmp_path / "teacher", recipe, *words).code == 0
    planned = tfkit.plan(recipe, changes, ranks=2, threads=1).cluster
    faults = {rank: measuring(tmp_path / f"{rank}.json") for rank in range(2)}
    ended(run_ranks(tmp_path / "run", recipe, *[f"{name}={json.dumps(value)}" for name, value in changes.items()], faults=faults), 0)
    first, second = (read_json(tmp_path / f"{rank}.json") for rank in range(2))
    tensors = planned["tensor_bytes"][layout]
    assert planned["layout"] == layout
    assert tensors["companions"] >= ("objective" in changes) * 0.2 * tensors["weights"]
    held = sum(tensors[name] for name in ("weights", "optimizer", "mean", "working", "companions"))
    assert first["held"] == pytest.approx(held, rel=0.01)
    assert first["peak"] == pytest.approx(tensors["peak"], rel=0.02)
    assert second["peak"] <= 1.02 * tensors["peak"]  # rank 0 has the larger shard
    assert first["sent"] == pytest.approx(planned["traffic_bytes_per_step"][layout], rel=0.01)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("values", "section"),
    [
        (ROTARY | {"decoder_layers": 7, "attention": {"windows": [8, None]}}, {}),
        pytest.param(ROTARY | {"decoder_layers": 5, "num_kv_heads": 2}, {"kind": "adafactor", "lr": 1e-3}, marks=pytest.mark.slow),
        pytest.param(
            SMALL | {"position": {"kind": "relative", "buckets": 8}, "encoder_layers": 5, "decoder_layers": 6}, {}, marks=pytest.mark.slow
        ),
    ],
    ids=["windows", "adafactor", "t5"],
)
def test_a_deep_model_is_extrapolated_exactly(values: dict[str, Any], section: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig.model_validate(values)
    recipe = read_recipe_of(recipe_of("causal_lm") | {"optimizer": section})
    ids = torch.zeros(2, 12, dtype=torch.long)
    batch = Batch(ids, ids, decoder_input_ids=ids if config.encoder_layers else None)
    mesh = Mesh(4, 2, reshard=True, micro_batches=3, dtype=torch.bfloat16)
    extrapolated = simulated_step.simulate(recipe, config, CausalLM(), batch, mesh)
    monkeypatch.setattr(simulated_step, "MIN_BLOCKS", 1000)
    assert simulated_step.simulate(recipe, config, CausalLM(), batch, mesh) == extrapolated


QUICK = ("distillation", "span_corruption", "multiple_choice", "adapter", "ppo")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if name not in QUICK)])
def test_every_objective_is_planned(name: str, in_place: None) -> None:
    plan = tfkit.plan(recipe_of(name), ranks=2, threads=1)
    tensors = plan.cluster["tensor_bytes"]["replicated"]
    assert tensors["weights"] == pytest.approx(4 * plan.parameters, rel=0.1)  # plus the LoRA matrices
    assert tensors["gradients"] == pytest.approx(4 * plan.trained_parameters)
    assert tensors["peak"] >= sum(tensors[part] for part in ("weights", "gradients", "optimizer"))
