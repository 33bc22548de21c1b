"""Measure the peak memory of steps of GPT-2 124M by one process, and by two with sharded weights: `python benchmarks/shared_memory.py`.

Both take the same rows, in fp32. The peak of a process is that of Linux (VmHWM), libraries included; beside it is what the process
held when these were imported, before there was a model.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from tfkit.families import PRESETS
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import ALONE, Peers, Ranks
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.training.device import keep_freed_memory
from tfkit.training.loss_module import LossModule
from tfkit.training.model_sharder import shard_models
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

STEPS, ROWS, TOKENS = 3, 1, 64
_MB = 1 << 20


def status(name: str) -> int:
    """Return a number of Linux on this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def batch(index: int) -> Batch:
    """Return a micro-batch, the same in every process."""
    ids = torch.randint(50_000, (2, ROWS, TOKENS), generator=torch.Generator().manual_seed(index))
    return Batch(ids[0], ids[1])


def measure(rank: int, size: int, port: int) -> dict[str, float]:
    """Take the steps as one of `size` processes with two micro-batches between them; return the memory in MiB, and the last loss."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    keep_freed_memory()
    peers: Peers = ALONE
    if size > 1:
        from tfkit.parallel import sharding  # noqa: F401  # for the number of what libraries take

        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        peers = ProcessGroup.join(Ranks(rank, size, rank, size, 0, "127.0.0.1", port))
    libraries = status("VmRSS")
    model = build(ModelConfig.model_validate(PRESETS["gpt2"][1]), seed=1, defer_blocks=size > 1)
    section = AdamWSection(lr=1e-4)
    weights = Weights(model, torch.float32)
    stepper = Stepper(
        LossModule(model, CausalLM()), weights, Optimizer(weights.trained, section), device=torch.device("cpu"), seed=1, peers=peers
    )
    if size > 1:
        shard_models(stepper, size, reshard=True)
    begun = status("VmHWM")
    loss = 0.0
    for step in range(1, STEPS + 1):
        loss = stepper.take(step, [batch(10 * step + index) for index in range(rank, 2, size)], 1.0).loss
    found = {"libraries": libraries / _MB, "begun": begun / _MB, "peak": status("VmHWM") / _MB, "loss": loss}
    if isinstance(peers, ProcessGroup):
        peers.agree(0)
        peers.close()
    return found


def run(size: int) -> list[dict[str, float]]:
    """Measure each of `size` processes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(size), str(port)], stdout=subprocess.PIPE) for rank in range(size)
    ]
    return [json.loads(process.communicate()[0]) for process in started]


def main() -> None:
    """Measure both, and print a table."""
    (alone,), shared = run(1), run(2)
    for name, found in [("one process", alone), *((f"rank {rank} of 2", one) for rank, one in enumerate(shared))]:
        print(f"{name:12}" + "".join(f"  {key} {value:8.1f}" for key, value in found.items()))
    peak = max(one["peak"] for one in shared)
    above = max(one["peak"] - one["libraries"] for one in shared) / (alone["peak"] - alone["libraries"])
    print(f"peak of a rank: {peak / alone['peak']:.2f} of one process; without libraries {above:.2f}")


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))), end="") if len(sys.argv) > 1 else main()
