"""The heartbeat of rank 0, by which the others know that rank 0 is not lost while it does long work of its own, such as an evaluation.

A process that ends closes its connections, which every other rank notices immediately. A process that is suspended, or whose machine loses
power or network, closes no connection: only its missing heartbeat, a counter in the store (collectives.py), shows that it is lost.
"""

import contextlib
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from tfkit.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_SECONDS = 10.0  # between two beats
SILENT_SECONDS = 600.0  # rank 0 is lost after this time without a beat: a slow disk, or a call that blocks all threads, may delay beats
_LOOK_SECONDS = 1.0  # between two readings of the heartbeat
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.2  # between queries of a key, ever longer; PyTorch's own wait would warn at each time-out
_ANSWER_SECONDS = 0.2  # between two checks of the thread that queries the store
_ROLL_CALL_SECONDS, _CALL_AGAIN_SECONDS = 10.0, 0.1  # time in which ranks report that they wait; time between two queries
_KEY = "heartbeat"  # the name of the counter in the store


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
        self.heard = time.monotonic()  # the time of the last new heartbeat
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

    If all ranks report this, return "the network". If the store, which a thread queries, never answers, return "rank 0", which serves it.
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
