"""The key-value store of the ranks of a command, which rank 0 or torchrun serves: connect to it, wait for all ranks, wait for a key.

If the process that serves the store ends, its connections close, which the ranks notice at once. If rank 0 is suspended, or its machine
loses power or network, no connection closes: ranks that wait for its announcements notice the end of its heartbeat, by which it increments
a counter in the store. While rank 0 does long work of its own, such as an evaluation, the heartbeat shows that it is alive.
"""

import contextlib
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

BEAT_SECONDS = 10.0  # between two beats of rank 0's heartbeat
SILENT_SECONDS = 600.0  # rank 0 is lost after this time without a beat: a slow disk, or a call that blocks all threads, may delay beats
_LOOK_SECONDS = 1.0  # between two readings of the heartbeat
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.2  # first and longest pause between queries of a key; PyTorch's own wait would warn at time-outs
_ANSWER_SECONDS = 0.2  # between two checks whether the thread that queries the store has an answer
_ROLL_CALL_SECONDS, _CALL_AGAIN_SECONDS = 10.0, 0.1  # time in which ranks report that they wait; pause between two checks of reports
_KEY = "heartbeat"  # the name of the counter in the store


def meet(ranks: Ranks, given: str, watch: Callable[[], None] | None, say: Callable[[str], None] | None) -> "Store":
    """Put `given`, a hash of the recipe and overrides of this rank's command, into the store; return the store when all ranks have done so.

    `watch` is called while this rank waits for the others, and `say` at most once, with a message that names late ranks. Raises
    RuntimeError if a rank does not connect in time, and MachineError if rank 0 cannot listen at its port.
    """
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # whether torchrun's own process serves the store
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # in the prefix of keys: torchrun's store outlives a restart
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
        except BaseException as error:  # raised by `result`, which would otherwise wait for ever
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


class Heartbeat:
    """A thread of rank 0 that increments a counter in the store until `stop`."""

    def __init__(self, store: "Store"):
        self._store, self._ended = store, threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Stop counting."""
        self._ended.set()

    def _beat(self) -> None:
        try:
            while not self._ended.is_set():
                self._store.add(_KEY, 1)
                self._ended.wait(BEAT_SECONDS)
        except RuntimeError:  # the store is gone, since the command has ended
            return


def await_key(store: "Store", key: str) -> bytes:
    """Wait until a key is in the store, and return its value. Raises RuntimeError if the store is gone, or if rank 0's heartbeat stops."""
    query = _KeyQuery(store, key)
    while True:
        with contextlib.suppress(TimeoutError):
            return query.value.result(_ANSWER_SECONDS)
        if time.monotonic() - query.heard > SILENT_SECONDS:
            raise RuntimeError(f"rank 0 gave no sign of life for {SILENT_SECONDS:g} s")


class _KeyQuery:
    """A query of the store on a thread of its own: if the process that serves the store hangs, a query never returns."""

    def __init__(self, store: "Store", key: str):
        self._store, self._key = store, key
        self.heard = time.monotonic()  # the monotonic time at which the last new beat was seen
        self.value: Future[bytes] = Future()
        threading.Thread(target=self._ask, name="announcement", daemon=True).start()

    def _ask(self) -> None:
        count, looked, pause = -1, 0.0, _FIRST_PAUSE
        try:
            while not self._store.check([self._key]):
                if time.monotonic() - looked > _LOOK_SECONDS:
                    looked = time.monotonic()
                    if (now := self._store.add(_KEY, 0)) != count:
                        count, self.heard = now, time.monotonic()
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, 1.5 * pause)
            self.value.set_result(self._store.get(self._key))
        except RuntimeError as error:
            self.value.set_exception(error)


def silent_ranks(store: "Store", ranks: Ranks) -> str:
    """Return the names of the ranks that hang. Every other rank reports in the store, as this one does, that it is waiting.

    If all ranks report this, return "the network". If the store, which rank 0 or torchrun serves, never answers, return "rank 0".
    """
    silent = [0]

    def call() -> None:
        store.set(f"waits/{ranks.rank}", "")
        end = time.monotonic() + _ROLL_CALL_SECONDS
        while time.monotonic() < end:
            silent[:] = [rank for rank in range(ranks.size) if not store.check([f"waits/{rank}"])]
            time.sleep(_CALL_AGAIN_SECONDS)

    query = threading.Thread(target=call, name="roll-call", daemon=True)
    query.start()
    query.join(_ROLL_CALL_SECONDS + 2)
    return " and ".join(f"rank {rank}" for rank in silent) or "the network"
