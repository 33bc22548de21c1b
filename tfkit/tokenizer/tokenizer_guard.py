"""Guards for calls of the tokenizers library: its errors become ModelErrors, and a long call can be interrupted."""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from tfkit.errors import ModelError

Result = TypeVar("Result")
_JOIN_SECONDS = 0.5  # on most platforms a signal interrupts a join immediately; on others its handler runs within this time


@contextmanager
def tokenizer_errors(place: str = "tokenizer.json") -> Iterator[None]:
    """Convert errors of the library (a bare Exception, a ValueError or a Rust panic) into ModelErrors. `place`: the file, for messages."""
    try:
        yield
    except BaseException as error:
        if type(error) not in (Exception, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{place}: not a usable tokenizer ({error}); copy the folder again or take the original tokenizer") from error


def interruptible(call: Callable[[], Result], abandoned: threading.Event | None = None) -> Result:
    """Return or raise what `call` returns or raises, but let a signal handler run while `call` runs, and raise the handler's exception.

    Python runs signal handlers in its main thread, but not during a call into Rust; therefore `call` runs in a thread of its own. If a
    handler raises, `abandoned` is set, so that Python code in `call` can end. Rust code in `call` runs on until it or the process ends, and
    its result is discarded.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()  # signal handlers run only in the main thread
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_JOIN_SECONDS)
    except BaseException as error:
        if abandoned is not None:
            abandoned.set()
        atexit.register(_leave, thread, getattr(error, "exit_code", 130))
        raise
    return future.result()


def _leave(thread: threading.Thread, code: int) -> None:
    """End the process without Python's shutdown if the thread still runs: if its call ended during the shutdown, Rust would abort."""
    thread.join(_JOIN_SECONDS)
    if thread.is_alive():
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
