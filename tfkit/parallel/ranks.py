"""The ranks of a command: which of them this process is, from the environment variables of torchrun or Slurm, and the operations that all
ranks do together. This module does not import torch.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkit.errors import UsageError, argument

if TYPE_CHECKING:
    from torch import Tensor, nn

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
# In a Slurm step without MASTER_PORT, the port of rank 0 is below those that Linux takes for outgoing connections, which may be in use.
_FIRST_PORT, _PORTS = 20_000, 12_000  # the lowest port, and the number of ports
_MOST_RANKS = 1 << 20


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, the number of ranks, and their machines; by default those of a single process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # the index of this process among the ranks of this machine
    local_size: int = 1  # the number of ranks of this machine
    node: int = 0  # the index of this machine
    address: str = "127.0.0.1"  # of rank 0, to which the other ranks connect
    port: int = 0
    nodes: int = 1  # the number of machines

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the run folder and reports."""
        return self.rank == 0

    def share(self, shard: int) -> bool:
        """Whether each rank holds only a part of the weights. `shard`: the recipe's parallel.shard, the number of parts."""
        return shard > 1 and not self.is_alone

    def copies_on_machine(self, shard: int) -> float:
        """Return how many copies of weights, gradients and optimizer state the ranks of this machine hold together (possibly below 1)."""
        return self.local_size / (shard if self.size > 1 else 1)

    @property
    def meters_its_node(self) -> bool:
        """Whether this process is the first rank of a machine other than rank 0's, and so measures the energy of its machine."""
        return self.node > 0 and self.local_rank == 0


ONE_PROCESS = Ranks()


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return this process's rank from torchrun's variables or, without them, from those of a Slurm step (srun); else a single process.

    Raises UsageError for incomplete, invalid or contradictory variables: with a wrong rank, a process would wait for absent ones.
    """
    if any(name in environment for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")):  # not MASTER_ADDR, which may be set without torchrun
        return _of_torchrun(environment)
    if "SLURM_STEP_ID" in environment:  # set by srun, so not for a command that the batch script runs without it
        return _of_slurm(environment)
    return ONE_PROCESS


def _of_torchrun(environment: Mapping[str, str]) -> Ranks:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE") if environment.get("WORLD_SIZE") == "1" else _TORCHRUN
    remedy = f"torchrun sets them all. Start the processes with it or with {argument('ranks')}, or unset them for one process"
    _require(names, environment, remedy)
    rank, local_rank, size = (_number(name, environment) for name in names[:3])
    local_size = _number("LOCAL_WORLD_SIZE", environment) if "LOCAL_WORLD_SIZE" in environment else size
    node = _number("GROUP_RANK", environment) if "GROUP_RANK" in environment else rank // max(1, local_size)
    port = _number("MASTER_PORT", environment, most=65_535) if size > 1 else 0
    nodes = _number("GROUP_WORLD_SIZE", environment) if "GROUP_WORLD_SIZE" in environment else max(node + 1, -(-size // max(1, local_size)))
    return _checked(
        Ranks(rank, size, local_rank, local_size, node, environment.get("MASTER_ADDR", "127.0.0.1"), port, nodes),
        [name for name in (*names, "LOCAL_WORLD_SIZE", "GROUP_RANK") if name in environment],
        environment,
    )


def _of_slurm(environment: Mapping[str, str]) -> Ranks:
    if environment.get("SLURM_STEP_NUM_TASKS") == "1":
        return ONE_PROCESS
    _require(_SLURM, environment, "srun sets them all. Start the processes with srun, or unset SLURM_STEP_ID for one process")
    rank, local_rank, node, size = (_number(name, environment) for name in _SLURM[:4])
    counts = tasks_of_nodes(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    if node >= len(counts) or sum(counts) != size:
        raise _contradiction(["SLURM_NODEID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"], environment)
    job, step = _number("SLURM_JOB_ID", environment, most=1 << 40), environment["SLURM_STEP_ID"]
    port = _FIRST_PORT + (7 * job + (int(step) if step.isdecimal() else 0)) % _PORTS
    address = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
    port = _number("MASTER_PORT", environment, most=65_535) if environment.get("MASTER_PORT") else port
    return _checked(Ranks(rank, size, local_rank, counts[node], node, address, port, len(counts)), _SLURM, environment)


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: gpu03-ib for `gpu[03-07,9]-ib,cpu1`. Raises UsageError if the text is not a node list."""
    match = re.fullmatch(r"([\w.-]+)(?:\[(\d+)[\d,-]*\]([\w.-]*))?(?:,.*)?", nodes)
    if match is None:
        raise UsageError(f"SLURM_STEP_NODELIST={nodes!r}: this is no list of nodes; set MASTER_ADDR to the host of the first process")
    return match[1] + (match[2] or "") + (match[3] or "")


def tasks_of_nodes(counts: str) -> list[int]:
    """Return the number of processes on each node: 2, 2, 2, 1 for Slurm's `2(x3),1`. Raises UsageError if the text is not such a list."""
    found: list[int] = []
    for part in counts.split(","):
        match = re.fullmatch(r"(\d{1,7})(?:\(x(\d{1,7})\))?", part)
        if match is None or len(found) + int(match[2] or 1) > _MOST_RANKS:
            raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={counts!r}: this is no list of numbers such as 2(x3),1; start with srun")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def _checked(ranks: Ranks, names: Sequence[str], environment: Mapping[str, str]) -> Ranks:
    whole = 0 <= ranks.rank < ranks.size and 0 <= ranks.local_rank < ranks.local_size <= ranks.size
    if not whole or ranks.local_rank > ranks.rank or not ranks.address or (not ranks.is_alone and not ranks.port):
        raise _contradiction(names, environment)
    return ranks


def _require(names: Sequence[str], environment: Mapping[str, str], remedy: str) -> None:
    if missing := [name for name in names if not environment.get(name)]:
        there = ", ".join(f"{name}={environment[name]}" for name in names if environment.get(name))
        raise UsageError(f"{there} {'is' if there.count('=') == 1 else 'are'} set, but not {', '.join(missing)}: {remedy}")


def _number(name: str, environment: Mapping[str, str], most: int = _MOST_RANKS) -> int:
    value = environment[name]
    if not value.isascii() or not value.isdecimal() or len(value) > 15 or int(value) > most:
        raise UsageError(f"{name}={value!r}: this is no whole number from 0 to {most:,}. torchrun and srun set it; else unset it")
    return int(value)


def _contradiction(names: Sequence[str], environment: Mapping[str, str]) -> UsageError:
    there = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
    return UsageError(
        f"{there}: these contradict each other. Start the processes with torchrun, srun or {argument('ranks')}, or unset the variables"
    )


class RankOutOfMemoryError(MemoryError):
    """A rank ran out of memory. All ranks raise this error together, so that they can repeat the work with smaller micro-batches."""


class Peers:
    """The ranks of a training, all of which call these methods in the same order: this class for one rank, `ProcessGroup` for several."""

    ranks = ONE_PROCESS

    def agree(self, code: int) -> int:
        """Return the maximum of `code` over all ranks."""
        return code

    def total(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the sum of each count over all ranks. All ranks pass the same names."""
        return dict(counts)

    def in_order(self, parts: "Sequence[Mapping[str, Tensor]]") -> "list[dict[str, Tensor]]":
        """Return the values of all micro-batches of a step, in their order. `parts`: the named values of each micro-batch of this rank."""
        return [dict(part) for part in parts]

    def sum_gradients(self, parameters: "Iterable[nn.Parameter]") -> None:
        """Replace each gradient by its sum over all ranks; a gradient that a rank lacks counts as zero."""

    def fitting(self) -> AbstractContextManager[None]:
        """Enclose work in which a rank may run out of memory. If one does, all ranks raise RankOutOfMemoryError and can repeat the work."""
        return nullcontext()

    def go_on(self) -> None:
        """Raise RankOutOfMemoryError, within `fitting`, if another rank has run out of memory. Called before each collective."""


ALONE = Peers()
