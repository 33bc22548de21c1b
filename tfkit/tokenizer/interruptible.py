"""Long calls into Rust that a signal can interrupt.

Python runs a signal's handler between two bytecodes of its main thread, so a handler waits for as long as a call into Rust keeps that
thread. Here such a call has a thread of its own, and the main thread waits for it, so that a handler can run, and raise.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def interruptible(call: Callable[[threading.Event], Result]) -> Result:
    """Return or raise what `call` does. An exception of a signal's handler propagates at once.

    Then the event that `call` received is set: its Python parts check it, and raise. Its Rust parts continue until they or the process
    end, and their result is dropped.
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
            thread.join(_TURN_SECONDS)
    except BaseException as error:
        abandoned.set()
        atexit.register(_leave, thread, getattr(error, "exit_code", 130))
        raise
    if errors:
        raise errors[0]
    return results[0]


_TURN_SECONDS = 0.5  # a handler interrupts a join at once on most platforms, and on the others after this


def _leave(thread: threading.Thread, code: int) -> None:
    """End the process here if the thread still works: a thread that returns into a Python that is shutting down is killed, which aborts in
    Rust.
    """
    thread.join(_TURN_SECONDS)
    if thread.is_alive():
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
