"""The speed of two ranks of one thread beside one process of two threads, in the same steps, in turns within one run.

    python benchmarks/scaling.py --rounds 8                    # replicas and sharded weights beside one process
    python benchmarks/scaling.py --steps 4 --precision fp32    # longer turns

Each setup has its processes from the beginning to the end; one of them works at a time, the others wait for their turn without using a
core. A step is eight micro-batches of 4 rows of 256 tokens of a GPT-2 of 14 million parameters, by the code that trains. Read the ratios,
medians of the rounds: the machine should have nothing else to do.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

SHAPE = {"decoder_layers": 6, "dim": 384, "num_heads": 6, "context_length": 256}
VOCABULARY, ROWS, MICRO_BATCHES = 8192, 4, 8
SETUPS = {  # ranks, threads of each, ranks with sharded weights
    "1 rank x 2 threads": (1, 2, 1),
    "2 ranks x 1 thread, replicas": (2, 1, 1),
    "2 ranks x 1 thread, sharded": (2, 1, 2),
}
GOAL = 0.95


def work(setup: str, steps: int, precision: str) -> None:
    """Take turns as one rank of a setup, in a child: for each line on stdin take this many steps, and print their seconds."""
    import tfkit  # noqa: F401, I001  # first: it bounds the spin of idle threads

    import torch
    from tfkit.model.config import ModelConfig
    from tfkit.objectives.objective import Batch
    from tfkit.parallel.ranks import find_ranks
    from tfkit.training.device import keep_freed_memory

    _, threads, shards = SETUPS[setup]
    torch.set_num_threads(threads)
    keep_freed_memory()
    config = {"position": {"kind": "learned"}, "norm": {"kind": "layer"}, "mlp": {"activation": "gelu_tanh", "bias": True}}
    config |= {"attention": {"qkv_bias": True, "out_bias": True}, "head": {"tied": True}, "vocab_size": VOCABULARY, **SHAPE}
    ranks = find_ranks()
    taking = stepper(ModelConfig.model_validate(config), shards, precision)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (MICRO_BATCHES, ROWS, SHAPE["context_length"] + 1), generator=random)
    batches = [Batch(one[:, :-1], one[:, 1:]) for one in ids][ranks.rank :: ranks.size]
    step = 0
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step += 1
            taking.take(step, batches, 1.0)
        print(time.perf_counter() - start, flush=True)


def stepper(config: Any, shards: int, precision: str) -> Any:
    """Return a model with AdamW, ready for its first step, sharded if asked."""
    import torch

    from tfkit.model.transformer import build
    from tfkit.objectives.causal_lm import CausalLM
    from tfkit.parallel.collectives import ProcessGroup
    from tfkit.parallel.ranks import ALONE, find_ranks
    from tfkit.recipe.schema.optimizer_sections import AdamWSection
    from tfkit.training.device import pick_precision
    from tfkit.training.loss_module import LossModule
    from tfkit.training.model_sharder import shard_models
    from tfkit.training.optimizer import Optimizer
    from tfkit.training.precision import Weights
    from tfkit.training.step import Stepper

    device, ranks = torch.device("cpu"), find_ranks()
    model = build(config, seed=1)
    weights = Weights(model, pick_precision(precision, device))
    peers = ALONE if ranks.is_alone else ProcessGroup.join(ranks)
    optimizer = Optimizer(weights.trained, AdamWSection())
    taking = Stepper(LossModule(model, CausalLM()), weights, optimizer, device=device, seed=1, peers=peers)
    if shards > 1:
        shard_models(taking, shards, reshard=True)
    return taking


class Setup:
    """The processes of a setup."""

    def __init__(self, name: str, steps: int, precision: str):
        size = SETUPS[name][0]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        meeting = {
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
        }
        command = [sys.executable, __file__, "--work", name, "--steps", str(steps), "--precision", precision]
        self.children = [
            subprocess.Popen(
                command,
                env={**os.environ, **{key: str(value) for key, value in (meeting | {"RANK": rank, "LOCAL_RANK": rank}).items()}},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]

    def turn(self) -> float:
        """Return the seconds of a turn: those of its slowest rank."""
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        found = [child.stdout.readline() for child in self.children if child.stdout is not None]
        if not all(found):
            raise SystemExit("a rank has ended; its error is above")
        return max(map(float, found))

    def end(self) -> None:
        """End the processes, each when it has read all of its turns."""
        for child in self.children:
            assert child.stdin is not None
            child.stdin.close()
        for child in self.children:
            child.wait()


def compare(rounds: int, steps: int, precision: str) -> dict[str, Any]:
    """Return the seconds of all turns, and the speed of each setup relative to the first one's in the same round."""
    setups = {name: Setup(name, steps, precision) for name in SETUPS}
    try:
        for one in setups.values():
            one.turn()  # makes the optimizer's state, and is not counted
        turns: dict[str, list[float]] = {name: [] for name in SETUPS}
        for number in range(rounds):
            order = [*SETUPS] if number % 2 == 0 else [*reversed(SETUPS)]
            for name in order:
                turns[name].append(setups[name].turn())
    finally:
        for one in setups.values():
            one.end()
    first = turns[next(iter(SETUPS))]
    ratios = {name: [alone / own for alone, own in zip(first, of, strict=True)] for name, of in turns.items()}
    return {"seconds": turns, "ratios": ratios}


def main() -> None:
    """Compare the setups, or be one of their ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=SETUPS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        return work(chosen.work, chosen.steps, chosen.precision)
    found = compare(chosen.rounds, chosen.steps, chosen.precision)
    if chosen.json:
        print(json.dumps(found))
        return None
    tokens = chosen.steps * MICRO_BATCHES * ROWS * SHAPE["context_length"]
    for name, ratios in found["ratios"].items():
        speed, middle = tokens / statistics.median(found["seconds"][name]), statistics.median(ratios)
        verdict = "" if name == next(iter(SETUPS)) else f", {'reaches' if middle >= GOAL else 'misses'} {GOAL}"
        print(f"{name:<30} {speed:8,.0f} tokens a second, ratio {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f}){verdict}")
    return None


if __name__ == "__main__":
    main()
