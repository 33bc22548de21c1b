"""Long calls into Rust that signals can interrupt.

Python runs signal handlers between bytecodes of its main thread, and so not during a call into Rust. Here such a call runs in a thread
of its own, and the main thread waits for it, so that a handler can run, and raise.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def interruptible(call: Callable[[threading.Event], Result]) -> Result:
    """Return or raise what `call` returns or raises. An exception in a signal handler propagates at once.

    It also sets the event that `call` receives: Python code in `call` should check the event and raise. Rust code continues until it or
    the process ends, and its result is discarded.
    """
    abandoned = threading.Event()
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call(abandoned))
        except BaseException as error:
            errors.append(error)

    if threading.current_thread() is not threading.main_thread():
        return call(abandoned)  # no handler runs in other threads
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_JOIN_SECONDS)
    except BaseException as error:
        abandoned.set()
        atexit.register(_leave, thread, getattr(error, "exit_code", 130))
        raise
    if errors:
        raise errors[0]
    return results[0]


_JOIN_SECONDS = 0.5  # a signal interrupts a join at once on most platforms; on others the handler runs after this time


def _leave(thread: threading.Thread, code: int) -> None:
    """End the process if the thread is still running: Python kills threads that return during its shutdown, and Rust then aborts."""
    thread.join(_JOIN_SECONDS)
    if thread.is_alive():
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
