"""The same steps by one process and by ranks with sharded weights: models of several families, optimizers, and what else is trained."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_layouts import BERT_LAYOUT, GPT2_LAYOUT, LLAMA_LAYOUT
from torch import Tensor

from tfkit.adapters import add_lora, freeze
from tfkit.engine.planning.tensor_meter import TensorMeter
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import ALONE, Peers, Ranks
from tfkit.recipe.schema.optimizer_sections import AdafactorSection, AdamWSection, MuonSection, OptimizerSection
from tfkit.recipe.schema.sections import LoraSection
from tfkit.training.depth import Unfreezing
from tfkit.training.loss_module import LossModule
from tfkit.training.model_sharder import shard_models
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

# Half of every vector is 16 numbers: the fused AdamW rounds those that do not fill a vector of the processor otherwise.
SMALL: dict[str, Any] = {"vocab_size": 64, "context_length": 12, "dim": 32, "num_heads": 4, "init": {"std": 0.3}}
GPT2 = SMALL | GPT2_LAYOUT | {"decoder_layers": 2}
LLAMA = SMALL | LLAMA_LAYOUT | {"decoder_layers": 2, "num_heads": 8, "num_kv_heads": 2, "hidden_dim": 48}
EXPERTS = LLAMA | {
    "mlp": LLAMA["mlp"] | {"experts": {"count": 4, "active": 2, "layers": [True, False]}},
    "routing": {"balance": 0.5, "z_loss": 0.5},
}
T5 = SMALL | {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "hidden_dim": 64,
    "position": {"kind": "relative", "buckets": 8},
    "norm": {"kind": "rms"},
    "attention": {"scale": 1.0},
    "mlp": {"activation": "relu"},
    "head": {"tied": True},
}
BERT = SMALL | BERT_LAYOUT | {"encoder_layers": 3}
UNTIED = {"head": {"tied": False}}
ADAMW, MUON = AdamWSection(lr=1e-2, clip_norm=None), MuonSection(kind="muon", lr=1e-2, clip_norm=None)
ADAFACTOR = AdafactorSection(kind="adafactor", lr=1e-2, clip_norm=None)


@dataclass(frozen=True)
class Case:
    """A model and the way in which it is trained."""

    values: Mapping[str, Any]
    section: OptimizerSection = ADAMW
    dtype: torch.dtype = torch.float32
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the model
    ema_decay: float | None = None
    lora: bool = False
    frozen: Sequence[str] = ()
    unfreeze_every: int | None = None
    checkpointing: bool = False
    reshard: bool = True
    micro_batches: int = 2  # of a step


def batches(case: Case, step: int) -> list[Batch]:
    """Return the micro-batches of a step, of two rows with gaps in their targets, so that their counts differ."""
    found = []
    for index in range(case.micro_batches):
        random = torch.Generator().manual_seed(100 * step + index)
        ids, labels = torch.randint(53, (2, 2, 12), generator=random)
        labels = torch.where(torch.rand(2, 12, generator=random) < 0.2 + 0.3 * index, IGNORED, labels)
        source = torch.randint(53, (2, 9), generator=random)
        padding = torch.arange(9)[None] < torch.tensor([[9], [4 + index]])
        both = case.values.get("encoder_layers") and case.values.get("decoder_layers")
        segments = (torch.arange(12) > 5).long().expand(2, 12) if case.values.get("embedding") else None
        found.append(Batch(source, labels, None, padding, decoder_input_ids=ids) if both else Batch(ids, labels, segment_ids=segments))
    return found


def model_of(case: Case, *, defer_blocks: bool = False) -> Transformer:
    model = build(ModelConfig.model_validate({**case.values, **case.changes}), seed=3, defer_blocks=defer_blocks)
    if case.lora:
        add_lora(model, LoraSection(rank=2, targets=["q_proj", "down_proj"]), 1)
    if case.frozen:
        freeze(model, case.frozen)
    for stack in model.stacks:
        stack.activation_checkpointing = case.checkpointing
    return model


def stepper_of(case: Case, peers: Peers = ALONE) -> Stepper:
    model = model_of(case, defer_blocks=peers is not ALONE)
    weights = Weights(model, case.dtype, case.ema_decay, whole=not case.lora)
    optimizer = Optimizer(weights.trained, case.section)
    unfreezing = Unfreezing(weights.working, case.unfreeze_every) if case.unfreeze_every else None
    beside: dict[str, Any] = {"unfreezing": unfreezing, "peers": peers}
    return Stepper(LossModule(model, CausalLM()), weights, optimizer, device=torch.device("cpu"), seed=1, **beside)


def whole_tensors(taking: Stepper) -> dict[str, Tensor]:
    """Return weights, their mean and the optimizer's state; of ranks that share them each whole one, gathered."""
    weights, sharding = taking.weights, taking.weights.sharding
    found = {
        **weights.master,
        **{f"mean/{name}": weights.mean[name] for name in weights.trained if weights.mean},
        **taking.optimizer.state(),
    }
    if sharding is None:
        return {key: tensor.detach() for key, tensor in found.items()}

    def whole(key: str, tensor: Tensor) -> Tensor:
        name = key.removeprefix("mean/")
        name = name if name in weights.master else name.rpartition("/")[0]
        return sharding.gather(name, tensor) if tensor.dim() == weights.master[name].dim() else tensor

    return {key: whole(key, tensor) for key, tensor in found.items()}


def digest(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        key: hashlib.sha256(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for key, tensor in tensors.items()
    }


def take(case: Case, steps: int, peers: Peers = ALONE, shards: int = 1) -> dict[str, Any]:
    """Take the steps, and return each loss, the norms, and all tensors."""
    taking = stepper_of(case, peers)
    if shards > 1:
        shard_models(taking, shards, reshard=case.reshard)
    losses, norms = [], []
    for step in range(1, steps + 1):
        report = taking.take(step, batches(case, step)[peers.ranks.rank :: peers.ranks.size], 1.0)
        losses.append(report.loss)
        norms.append(report.grad_norm)
    held = sum(one.numel() for one in taking.weights.master.values()) + sum(one.numel() for one in taking.optimizer.state().values())
    return {"losses": losses, "norms": norms, "tensors": whole_tensors(taking), "held": held}


def take_on_rank(rank: int, size: int, port: int, folder: Path, shards: int, cases: Mapping[str, Case], steps: int) -> None:
    """Take the steps of all cases as one of several ranks; rank 0 writes what came of them."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    group = ProcessGroup.join(Ranks(rank, size, rank, size, 0, "127.0.0.1", port))
    found = {}
    with group.to_the_end(()):
        for name, case in cases.items():
            taken = take(case, steps, group, shards)
            tensors = taken.pop("tensors")
            if rank == 0:
                torch.save(tensors, folder / f"{name}.pt")
            found[name] = taken
    (folder / f"rank-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    assert np.isfinite([one["losses"] for one in found.values()]).all()


def peaks(case: Case, peers: Peers) -> tuple[int, int]:
    """Return the most bytes of tensors at once before the first step, and in a step, once there is the optimizer's state.

    The least of several steps: a busy thread of gloo may drop what was sent late.
    """
    ranks = peers.ranks
    with TensorMeter() as meter:
        stepper = stepper_of(case, peers)
        if ranks.size > 1:
            shard_models(stepper, ranks.size, reshard=True)
        beginning, found = meter.mark(), []
        for step in range(1, 5):
            meter.mark()
            stepper.take(step, batches(case, step)[ranks.rank :: ranks.size], 1.0)
            found.append(meter.mark())
        return beginning, min(found[1:])


def peaks_on_rank(rank: int, size: int, port: int, folder: Path, case: Case) -> None:
    torch.set_num_threads(1)
    group = ProcessGroup.join(Ranks(rank, size, rank, size, 0, "127.0.0.1", port))
    (folder / f"rank-{rank}.json").write_text(json.dumps(peaks(case, group)), encoding="utf-8")
    group.agree(0)
