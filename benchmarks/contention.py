"""Idle threads that spin, and one other busy process: tokens a second of training and of generation, in turns.

    python benchmarks/contention.py small medium --rounds 5 --seconds 4

Each policy of OpenMP's idle threads has a process of its own, which sleeps between its turns: PyTorch's default, the bounded spin that
tfkit sets, sleep at once (OMP_WAIT_POLICY=passive), and the bounded spin with one thread, which is what a run beside another process is
advised to take. Each takes its turns alone and beside a process that keeps one core busy. Read the ratios to the default alone, medians
of the rounds: the machine must have nothing else to do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SHAPES = {  # of a Llama: parameters in millions, rows and length of a step
    "small": {"decoder_layers": 6, "dim": 192, "num_heads": 6, "rows": 16, "length": 128},  # 3 M
    "medium": {"decoder_layers": 8, "dim": 384, "num_heads": 6, "rows": 8, "length": 256},  # 16 M
}
POLICIES = {
    "default": {},
    "bounded": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "bounded, 1 thread": {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": "1"},
}
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
WORK = ("training", "generation")
PLACES = ("alone", "beside one")
VOCABULARY, NEW_TOKENS = 4096, 64


def work(shape: dict[str, int]) -> None:
    """Take turns, in a child: for each line "training|generation SECONDS" on stdin print tokens a second."""
    import torch  # before tfkit, which would set its own policy

    if torch.get_num_threads() > 1:
        torch.ones(1 << 20).sum()  # starts the threads
    steps = {"training": training_step(shape), "generation": generation_step(shape)}
    print("ready", flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        tokens, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < float(seconds):
            tokens += next(steps[name])
        print(json.dumps(tokens / (time.perf_counter() - begin)), flush=True)


def training_step(shape: dict[str, int]) -> Iterator[int]:
    """Train on random ids; yield the tokens of each step."""
    import numpy as np
    import torch

    from tfkit.data import Loader, PackedRows, TokenStream
    from tfkit.objectives.causal_lm import CausalLM
    from tfkit.recipe.schema.optimizer_sections import AdamWSection
    from tfkit.training.device import keep_freed_memory, pick_precision
    from tfkit.training.loss_module import LossModule
    from tfkit.training.optimizer import Optimizer
    from tfkit.training.precision import Weights
    from tfkit.training.step import Stepper

    keep_freed_memory()
    objective, device = CausalLM(), torch.device("cpu")
    lengths = np.full(64, 4096)
    ids = np.random.default_rng(1).integers(1, VOCABULARY, lengths.sum()).astype(np.uint16)
    starts = np.concatenate([[0], lengths.cumsum()])
    stream = TokenStream("made", ids, starts, lengths, separator=0, max_id=VOCABULARY - 1, fingerprint="made", cached=False)
    loader = Loader(PackedRows([(stream, 1.0)], shape["length"], 1), objective.collate, shape["rows"], shape["rows"])
    model = build_model(shape)
    weights = Weights(model, pick_precision("auto", device))
    stepper = Stepper(LossModule(model, objective), weights, Optimizer(weights.master, AdamWSection(lr=1e-3)), device=device, seed=1)
    step = 0
    while True:
        yield stepper.take(step + 1, loader.step(step), 1.0).tokens
        step += 1


def generation_step(shape: dict[str, int]) -> Iterator[int]:
    """Continue one prompt again and again; yield the new tokens of each."""
    from tfkit.generation.decoding import generate
    from tfkit.recipe.schema.output_sections import GenerationSection

    model, settings = build_model(shape).eval(), GenerationSection(max_new_tokens=NEW_TOKENS, temperature=0)
    while True:
        yield len(generate(model, [list(range(1, 17))], settings)[0].ids)


def build_model(shape: dict[str, int]):  # type: ignore[no-untyped-def]
    """Build a Llama of this shape with random weights."""

    from tfkit.families import PRESETS
    from tfkit.model.config import ModelConfig
    from tfkit.model.transformer import build
    from tfkit.recipe.presets import merge

    sizes = {name: value for name, value in shape.items() if name not in ("rows", "length")}
    changes = sizes | {"vocab_size": VOCABULARY, "context_length": 256, "hidden_dim": None, "num_kv_heads": None, "head_dim": None}
    return build(ModelConfig.model_validate(merge(PRESETS["smollm2-135m"][1], changes)), 1)


class Worker:
    """A child with one policy, asleep until it is asked."""

    def __init__(self, shape: str, policy: dict[str, str]):
        environment = {name: value for name, value in os.environ.items() if name not in SETTINGS} | policy
        command = [sys.executable, __file__, shape, "--child"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.answer()

    def answer(self) -> str:
        """Return its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() or sys.exit("a worker ended; its error is above")

    def measure(self, name: str, seconds: float) -> float:
        """Return the tokens a second of one turn."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name} {seconds}\n")
        self.process.stdin.flush()
        return float(json.loads(self.answer()))

    def end(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """Keep one core busy while the block runs."""
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        yield
    finally:
        process.kill()
        process.wait()


def measure(shape: str, rounds: int, seconds: float) -> dict[tuple[str, str, str], float]:
    """Return the median tokens a second by (work, policy, place)."""
    workers = {name: Worker(shape, policy) for name, policy in POLICIES.items()}
    found: dict[tuple[str, str, str], list[float]] = {}
    try:
        for worker in workers.values():
            for name in WORK:
                worker.measure(name, 1)  # warm-up
        for _ in range(rounds):
            for place in PLACES:
                with neighbour(place != "alone"):
                    for name in WORK:
                        for policy, worker in workers.items():
                            found.setdefault((name, policy, place), []).append(worker.measure(name, seconds))
    finally:
        for worker in workers.values():
            worker.end()
    return {key: statistics.median(values) for key, values in found.items()}


def main() -> None:
    """Print a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", choices=SHAPES, default=["small"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each turn (default 3)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work(SHAPES[arguments.shapes[0]])
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print("| shape | work | idle threads | alone, tokens/s | ratio | beside one busy process | ratio |\n|---|---|---|---|---|---|---|")
    for shape in arguments.shapes:
        speeds = measure(shape, arguments.rounds, arguments.seconds)
        for name in WORK:
            full = speeds[name, "default", "alone"]
            for policy in POLICIES:
                cells = [f"{speeds[name, policy, place]:,.0f} | {speeds[name, policy, place] / full:.2f}" for place in PLACES]
                print(f"| {shape} | {name} | {policy} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
