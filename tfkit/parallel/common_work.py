"""Work without gradients that is divided among the ranks: evaluations, predictions, generated texts.

All N ranks run the same program on the same list of items, and rank i mod N computes item i. After every N items, the ranks exchange their
results as JSON, so that each has all results, in the items' order. An error of one rank ends all ranks; a foreseen one keeps its exit code.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist

from tfkit.errors import (
    DataError,
    MachineError,
    ModelError,
    PeerLostError,
    QualityGateError,
    Stopped,
    TfkitError,
    UnhealthyError,
    UsageError,
    is_out_of_memory,
)
from tfkit.parallel.collectives import ProcessGroup, lost
from tfkit.parallel.rank_map import Item, PeerDoneError, Result
from tfkit.parallel.ranks import Ranks

_KINDS = {one.exit_code: one for one in (UsageError, DataError, ModelError, MachineError, UnhealthyError, QualityGateError, PeerLostError)}


class CommonWork:
    """Divides work among the ranks of a process group, and exchanges the results. The method `deal` implements `RankMap`."""

    def __init__(self, group: ProcessGroup):
        self._group, self._ranks = group, group.ranks
        self._thread = ThreadPoolExecutor(1, "common work")
        self._is_over = False  # True after an exchanged error or the loss of a rank: no further exchange is possible

    def deal(self, compute: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """Yield the result of each item, in order; rank i mod N computes item i."""
        iterator, rank = iter(items), self._ranks.rank
        refused: TfkitError | None = None
        while refused is None:
            part: list[Item] = []
            try:
                part.extend(islice(iterator, self._ranks.size))
            except TfkitError as error:  # all ranks get this error from the same items: first compute the items before the error
                refused = error
            if part:
                with self.sharing_errors():
                    own = compute(part[rank]) if rank < len(part) else None
                yield from self.exchange(own)[: len(part)]
            elif refused is None:
                return
        raise refused

    @contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """Enclose work that all ranks do before they call `exchange`. If the work fails on one rank, all ranks raise the error."""
        try:
            yield
        except Exception as error:
            self._gathered(_described(error))
            self._is_over = True
            raise

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Enclose work that fills a cache. Rank 0 does it first; the other ranks then enter the block, after a wait without a time-out."""
        if not self._ranks.is_first:
            self._group.receive()
        try:
            yield
        finally:
            if self._ranks.is_first:
                self._group.announce({})

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Enclose all work that is divided among the ranks. An error of one rank is raised on all.

        The ranks leave the block together, since rank 0 may serve the store by which they are connected.
        """
        try:
            yield
            self.exchange(None)
        except BaseException as error:
            if not self._is_over:
                with contextlib.suppress(PeerLostError):
                    self._gathered(_described(error))
            raise
        finally:
            self._thread.shutdown()
            self._group.close()

    def exchange(self, result: Any) -> list[Any]:
        """Send this rank's `result`, a JSON value, and return the results of all ranks. Raises the error of a rank that failed."""
        documents = self._gathered({"result": result})
        for rank, one in enumerate(documents):
            if "error" in one:
                self._is_over = True
                raise _raised(rank, **one)
        return [one["result"] for one in documents]

    def _gathered(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the documents of all ranks. A thread exchanges them, so that a signal is handled only after the exchange."""
        gathering = self._thread.submit(_gather, json.dumps(document).encode(), self._ranks)
        try:
            return gathering.result()
        except PeerLostError:
            self._is_over = True
            raise
        finally:
            wait([gathering])


def _gather(document: bytes, ranks: Ranks) -> list[dict[str, Any]]:
    own = torch.frombuffer(bytearray(document), dtype=torch.uint8)
    sizes = [torch.empty(1, dtype=torch.int64) for _ in range(ranks.size)]
    with lost(ranks, "lost another rank"):
        dist.all_gather(sizes, torch.tensor([len(own)]))
        longest = int(max(sizes))
        texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(ranks.size)]
        dist.all_gather(texts, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [json.loads(bytes(text[: int(size)].numpy())) for text, size in zip(texts, sizes, strict=True)]


def _described(error: BaseException) -> dict[str, Any]:
    kind = "MemoryError" if is_out_of_memory(error) else type(error).__name__
    return {"error": kind, "message": str(error), "code": getattr(error, "exit_code", None)}


def _raised(rank: int, error: str, message: str, code: int | None) -> Exception:
    """Return the exception that this rank raises for another rank's error: with its exit code, or PeerLostError for an unforeseen one."""
    if error == "Stopped" and code is not None:
        return Stopped(message, code - 128)
    if code == PeerDoneError.exit_code:
        return PeerDoneError(message)
    if error == "MemoryError":
        return MemoryError(f"rank {rank}: {message}")
    if code in _KINDS:
        return _KINDS[code](f"rank {rank}: {message}")
    return PeerLostError(f"rank {rank} ended the work: {error}: {message}")
