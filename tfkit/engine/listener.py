"""Two interfaces that a caller of the engine implements: a Listener receives reports of the engine, a StopRequest asks it to stop."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

LOOK_SECONDS = 0.25  # a progress bar checks for a request to stop at most once in this time


class ProgressBar(Protocol):
    """A progress bar that shows a count."""

    def advance(self, count: int = 1) -> None:
        """Add `count` to the progress."""


class Live(Protocol):
    """The display of a training's steps. `terminal`: whether an update replaces the shown line instead of adding one."""

    terminal: bool

    def update(self, fields: Mapping[str, Any]) -> None:
        """Show step, steps, loss, lr, tokens_per_second, eta_seconds, energy_wh and emissions_g."""


class Listener(Protocol):
    """A receiver of the engine's reports. The listener in `tfkit.console` writes them to stderr; `Silent` shows none."""

    def say(self, text: str) -> None:
        """Report information that needs no action."""

    def decided(self, text: str) -> None:
        """Report a choice made for the user, such as the task, learning rate or length of a run; shown even with --quiet."""

    def warn(self, text: str) -> None:
        """Report something that may be wrong; the run continues."""

    def progress(self, description: str, total: int | None = None, unit: str = "") -> AbstractContextManager[ProgressBar]:
        """Return a context that shows a count up to `total` (None: unknown) while its block runs."""

    def live(self) -> AbstractContextManager[Live]:
        """Return a context that shows the steps of a training while its block runs."""


class Silent:
    """A listener that shows nothing: the library's default."""

    terminal = False

    def say(self, text: str) -> None:
        """Show nothing."""

    decided = warn = say

    def advance(self, count: int = 1) -> None:
        """Show nothing."""

    def update(self, fields: Mapping[str, Any]) -> None:
        """Show nothing."""

    @contextmanager
    def progress(self, description: str, total: int | None = None, unit: str = "") -> Iterator[Self]:
        """Show nothing."""
        yield self

    @contextmanager
    def live(self) -> Iterator[Self]:
        """Show nothing."""
        yield self


class StopRequest(Protocol):
    """A request that a computation should stop. `run.signals.StopSignals` implements it for signals such as SIGINT."""

    def should_stop(self) -> bool:
        """Whether the computation should stop as soon as it can do so without a loss of work."""

    def at_once(self, message: str = ...) -> AbstractContextManager[None]:
        """Return a context in which a request to stop raises Stopped immediately, because its block has no work to save."""

    def raise_if_requested(self, message: str = ...) -> None:
        """Raise Stopped if the computation should stop; `message` says what was saved and how to continue."""


@dataclass(frozen=True)
class _Watched:
    """A progress bar that also checks whether the work should stop."""

    inner: ProgressBar
    listener: "StoppingListener"

    def advance(self, count: int = 1) -> None:
        """Add `count` to the progress. Raises Stopped if the work should stop."""
        self.inner.advance(count)
        self.listener.check()


class StoppingListener:
    """A listener whose progress bars raise Stopped if the work should stop: after a signal such as SIGINT, or at the limit of a budget."""

    def __init__(self, inner: Listener, stop: StopRequest, message: str):
        self.say, self.warn, self.decided, self.live = inner.say, inner.warn, inner.decided, inner.live
        self._inner, self._stop, self._message, self._checked = inner, stop, message, 0.0

    @contextmanager
    def progress(self, description: str, total: int | None = None, unit: str = "") -> Iterator[ProgressBar]:
        """Show a count up to `total` (None: unknown) while the block runs."""
        with self._inner.progress(description, total, unit) as count:
            yield _Watched(count, self)

    def check(self) -> None:
        """Raise Stopped if the work should stop. A call within LOOK_SECONDS of the last check does nothing."""
        now = time.monotonic()
        if now - self._checked >= LOOK_SECONDS:
            self._checked = now
            self._stop.raise_if_requested(self._message)
