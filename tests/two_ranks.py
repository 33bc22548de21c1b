"""Trainings on two ranks for tests: each rank is a fork of this process, with torchrun's variables."""

import faulthandler
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny_files import write_rows
from tiny_runs import After, Before, Done, Fault, Process, pretrain, raising, write_corpus, write_recipe
from tiny_runs import losses as losses
from torch import Tensor

from tfkit.data import Loader
from tfkit.model.stack import Block
from tfkit.training.step import Stepper

HANG_SECONDS = 600  # no rank of a test takes a tenth of it, however busy the machine is
ONE_EACH = ("training.micro_batch_size=2", "model.dropout={residual: 0.1}", "checkpoint={every: 4, keep: 4}")  # of a batch of 4


def with_unbroken_run(folder: Path) -> Path:
    """Write a recipe into the folder, tiny.yaml, and the run of one process that it gives with ONE_EACH, unbroken/."""
    recipe = write_recipe(folder, write_corpus(folder / "corpus"))
    assert pretrain(folder / "unbroken", recipe, *ONE_EACH).code == 0
    return folder


def write_prompts_and_pairs(folder: Path) -> None:
    """Write the rows of tiny policies and reward models: prompts.jsonl and pairs.jsonl."""
    prompts = [{"prompt": f"the cat {'sat ' * (number % 3)}"} for number in range(12)]
    pairs = [{"prompt": "the cat", "chosen": " sat", "rejected": f" {word} ran"} for word in ("mat", "hat", "red", "big") * 2]
    for name, rows in (("prompts", prompts), ("pairs", pairs)):
        write_rows(folder / f"{name}.jsonl", rows)


def assert_close_checkpoints(one: Path, other: Path) -> None:
    """Assert that weights and optimizer state of two GPT-2s differ by 1e-5 at most, or by a millionth.

    The biases of their keys are left out: their true gradient is 0, so that AdamW makes whole steps of rounding errors.
    """
    for file in ("model.safetensors", "training_state/optimizer.safetensors"):
        first, second = load_file(one / file), load_file(other / file)
        assert first.keys() == second.keys()
        for name in first:
            parts = [tensors[name] for tensors in (first, second)]
            if name.endswith("c_attn.bias"):
                parts = [torch.cat([query, value]) for query, _, value in (part.chunk(3) for part in parts)]
            torch.testing.assert_close(*parts, rtol=1e-6, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_ranks(
    folder: Path, words: list[str], faults: Mapping[int, Fault] | None = None, size: int = 2, *, nodes: bool = False, alone: bool = False
) -> list[Process]:
    """Start a command on all ranks; `faults` are called in the processes of their ranks first.

    `nodes`: each is as on a machine alone. `alone`: the first is started, and the others never come.
    """
    port = free_port()

    def before(rank: int) -> Callable[[], None]:
        def prepare() -> None:
            values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
            if nodes:
                values |= {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": rank, "GROUP_WORLD_SIZE": size}
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=2)
            os.environ.update(
                {name: str(value) for name, value in values.items()} | {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
            )
            if faults and rank in faults:
                faults[rank]()

        return prepare

    return [Process(folder, words, before(rank)) for rank in range(1 if alone else size)]


def run_ranks(run: Path, recipe: Path, *words: str, faults: Mapping[int, Fault] | None = None, size: int = 2) -> list[Done]:
    """Run a whole training, and return how each rank ended."""
    command = ["pretrain", str(recipe), "--run", str(run), "--threads", "1", *words]
    return [process.wait() for process in start_ranks(run.parent, command, faults, size)]


def ended(ranks: Sequence[Process | Done], *codes: int) -> list[Done]:
    """Wait for the ranks, and assert that they end with these codes; a single one is that of all."""
    done = [one.wait() if isinstance(one, Process) else one for one in ranks]
    assert [one.code for one in done] == [*codes] * (len(done) if len(codes) == 1 else 1), "\n".join(one.err for one in done)
    return done


def raise_once(error: Exception, call: int) -> Callable[[], None]:
    """Return a fault: the `call`-th micro-batch of this rank raises an error, counted from 1."""
    return Before(Stepper, "_accumulate", raising(error), call)


def raise_in_loader(error: Exception, step: int) -> Callable[[], None]:
    """Return a fault: this rank's rows of a step, counted from 1, raise an error once."""

    raised: list[int] = []

    def fail(_: Loader[Any], number: int) -> None:
        if number + 1 == step and not raised:
            raised.append(number)
            raise error

    return Before(Loader, "step", fail)


def raise_within_backward(error: Exception, call: int) -> Callable[[], None]:
    """Return a fault: the backward pass of the `call`-th forward of a block of this rank raises an error, counted from 1."""

    def hooked(output: tuple[Tensor, list[Tensor]], *_: object) -> tuple[Tensor, list[Tensor]]:
        output[0].register_hook(raising(error))
        return output

    return After(Block, "forward", hooked, call)
