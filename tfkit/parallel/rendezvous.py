"""Connect the ranks of a training: each connects to the key-value store of rank 0 or torchrun, and waits until all are connected."""

import os
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

from tfkit.errors import MachineError
from tfkit.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

STEP_SECONDS = 1800.0  # the longest wait for ranks to connect, and for a slower rank until the first step is timed
_CONNECT_SECONDS, _AGAIN_SECONDS = 10.0, 0.1  # the longest attempt to connect; the pause after it
_LATE_SECONDS = 30.0  # the wait after which missing ranks are reported; until then they may be importing modules


def meet(ranks: Ranks, given: str, watch: Callable[[], None] | None, say: Callable[[str], None] | None) -> "Store":
    """Put `given`, a hash of the recipe and overrides of this rank's command, into the store; return the store when all ranks have done so.

    `watch` is called while this rank waits for the others, and `say` once, with the ranks that are late. Raises RuntimeError if a rank does
    not connect in time, and MachineError if rank 0 cannot listen at its port.
    """
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # whether torchrun's own process serves the store
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # part of the prefix: after a restart, torchrun's store has the old keys
    serves = ranks.is_first and not of_launcher
    if not serves:
        _await_server(ranks)
    store = dist.PrefixStore(f"tfkit/{restarts}", _connect(ranks, serves))  # type: ignore[attr-defined]
    store.set(f"here/{ranks.rank}", given)
    _await_all(store, ranks, watch, say)
    return store


def _connect(ranks: Ranks, serves: bool) -> "Store":
    """Return the store of the ranks. A thread connects to it, since no signal interrupts PyTorch while it waits for an answer.

    Rank 0 connects to itself by an IP address, since a machine may not resolve its own name. Raises MachineError if rank 0 cannot listen.
    """
    address, timeout = "127.0.0.1" if serves else ranks.address, timedelta(seconds=STEP_SECONDS)
    store: Future[Store] = Future()

    def connect() -> None:
        try:
            store.set_result(dist.TCPStore(address, ranks.port, ranks.size, serves, timeout, wait_for_workers=False))  # type: ignore[attr-defined]
        except BaseException as error:  # otherwise this rank would wait for ever
            store.set_exception(error)

    threading.Thread(target=connect, name="store", daemon=True).start()
    try:
        return store.result()
    except RuntimeError as error:
        if "failed to listen" not in str(error):
            raise
        reason = "another program listens there" if "EADDRINUSE" in str(error) else first_sentence(str(error).rpartition("message: ")[2])
        raise MachineError(
            f"rank 0 cannot listen at port {ranks.port} of this machine ({reason}): set MASTER_PORT to a free port on all ranks"
        ) from error


def _await_server(ranks: Ranks) -> None:
    """Wait until the server of the store listens. Unlike PyTorch's own wait, this one ends at a signal, and it tries to connect more often.

    Raises RuntimeError after the time-out, as PyTorch does.
    """
    end = time.monotonic() + STEP_SECONDS
    while True:
        try:
            socket.create_connection((ranks.address, ranks.port), _CONNECT_SECONDS).close()
        except OSError as error:
            if time.monotonic() > end:
                raise RuntimeError(str(error)) from error
            time.sleep(_AGAIN_SECONDS)
        else:
            return


def _await_all(store: "Store", ranks: Ranks, watch: Callable[[], None] | None, say: Callable[[str], None] | None) -> None:
    """Wait until all ranks have connected, and report those that are late. Raises RuntimeError after the time-out."""
    names = [f"here/{rank}" for rank in range(ranks.size)]
    began = time.monotonic()
    while not store.check(names):
        if watch is not None:
            watch()
        waited = time.monotonic() - began
        if waited > STEP_SECONDS or (waited > _LATE_SECONDS and say is not None):
            missing = ", ".join(str(rank) for rank, name in enumerate(names) if not store.check([name]))
            if waited > STEP_SECONDS:
                raise RuntimeError(f"no message came from rank {missing} within {STEP_SECONDS:g} s")
            assert say is not None
            say(f"waiting at {ranks.address}:{ranks.port} for rank {missing} of {ranks.size}, at most {STEP_SECONDS:g} s in all")
            say = None  # report once
        time.sleep(_AGAIN_SECONDS)


def first_sentence(message: str) -> str:
    """Return the first sentence of a library's error, without its source location and its request to report the error."""
    first = message.partition("\n")[0]
    return re.sub(r"^\[\S+:\d+\] ", "", first).partition(". ")[0]
