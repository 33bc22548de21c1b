"""How the engine reports: to a Listener, which the console implements and a notebook may; and how it is asked to stop."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

LOOK_SECONDS = 0.25


class Progress(Protocol):
    """A count that goes up."""

    def advance(self, count: int = 1) -> None:
        """Add to what is done."""


class Live(Protocol):
    """The line of a training: `terminal` says whether an update replaces the line before (then every step is shown) or adds one."""

    terminal: bool

    def update(self, fields: Mapping[str, Any]) -> None:
        """Show step, steps, loss, lr, tokens_per_second, eta_seconds, energy_wh and emissions_g."""


class Listener(Protocol):
    """Where reports go. `tfkit.console` writes them to stderr, `Silent` nowhere."""

    def say(self, text: str) -> None:
        """Report something worth knowing."""

    def decided(self, text: str) -> None:
        """Report what was decided for the user: the task, rate, length of a run; never silent."""

    def warn(self, text: str) -> None:
        """Report something that may be wrong; the run continues."""

    def progress(self, description: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Progress]:
        """Show a count up to `total`; None: unknown."""

    def live(self) -> AbstractContextManager[Live]:
        """Show the steps of a training while the block runs."""


class Silent:
    """A listener that shows nothing: the library's default."""

    terminal = False

    def say(self, text: str) -> None:
        """Show nothing."""

    def decided(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Show nothing."""

    def advance(self, count: int = 1) -> None:
        """Show nothing."""

    def update(self, fields: Mapping[str, Any]) -> None:
        """Show nothing."""

    @contextmanager
    def progress(self, description: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
        """Show nothing."""
        yield self

    @contextmanager
    def live(self) -> Iterator[Live]:
        """Show nothing."""
        yield self


class StopRequest(Protocol):
    """How a computation learns that it is to end. `run.signals.StopSignals` is one, set by signals."""

    def should_stop(self) -> bool:
        """Whether it is to end as soon as nothing is lost."""

    def at_once(self, message: str = ...) -> AbstractContextManager[None]:
        """Inside the block it may end at any place, with Stopped: there is nothing to save."""

    def raise_if_requested(self, message: str = ...) -> None:
        """Raise Stopped if it is to end; `message` says what was saved and how to continue."""


@dataclass(frozen=True)
class _Watched:
    """A count that looks, now and then, whether the work is to end."""

    inner: Progress
    listener: "StoppingListener"

    def advance(self, count: int = 1) -> None:
        """Add to what is done. Raises Stopped."""
        self.inner.advance(count)
        self.listener.look()


class StoppingListener:
    """A listener whose counts end the work that they count where it is to stop, as by a budget, which sends no signal."""

    def __init__(self, inner: Listener, stop: StopRequest, message: str):
        self.say, self.warn, self.decided, self.live = inner.say, inner.warn, inner.decided, inner.live
        self._inner, self._stop, self._message, self._looked = inner, stop, message, 0.0

    @contextmanager
    def progress(self, description: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
        """Show a count up to `total`; None: unknown."""
        with self._inner.progress(description, total, unit) as count:
            yield _Watched(count, self)

    def look(self) -> None:
        """Raise Stopped if the work is to end; it is asked at most every LOOK_SECONDS."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._stop.raise_if_requested(self._message)
