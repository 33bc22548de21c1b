"""A line of progress in place of the last one, by rich, which is imported when the first is drawn; elsewhere plain lines now and then."""

import builtins
import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tfkit.console.characters import fit, is_terminal, takes_unicode
from tfkit.units import format_count, format_fields, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_SECONDS = 10.0  # between plain lines of progress
_QUIET_SECONDS = 60.0  # between lines with --quiet
_NOTEBOOK_SECONDS = 0.1  # between live lines, of which each is a message to the browser
Write = Callable[[str], None]


class Shower(Protocol):
    """Shows one line in place of the last one; `terminal` says whether it does, or writes plain lines, `seconds` apart."""

    terminal: bool
    seconds: float

    def __call__(self, parts: list[str], share: float | None) -> None:
        """Show the parts, and a bar of the share that is done."""


class Counter:
    """The line of a running count: how much is done, of how much, and when it will be."""

    def __init__(self, description: str, total: int | None, unit: str, show: Shower):
        self.description, self.total, self.unit, self.show = description, total, unit, show
        self.done = 0
        self.begin = time.monotonic()
        self.shown = False
        self.next = self.begin + (0.2 if show.terminal else show.seconds)

    def advance(self, count: int = 1) -> None:
        """Count on, and draw the line if the last one is old enough."""
        self.done += count
        if (now := time.monotonic()) >= self.next:
            self.next = now + (0.1 if self.show.terminal else self.show.seconds)
            self._draw(now)

    def finish(self) -> None:
        """Draw the last plain line, if there was any."""
        if self.shown and not self.show.terminal:
            self._draw(time.monotonic())

    def _draw(self, now: float) -> None:
        self.shown = True
        seconds, share = now - self.begin, self.done / self.total if self.total else None
        of = f"/{format_count(self.total)}" if self.total else ""
        parts = [self.description, f"{format_count(self.done)}{of} {self.unit}".rstrip()]
        if share and share < 1:
            parts.append(f"ETA {format_seconds(seconds / share - seconds)}")
        elif share:
            parts.append(format_seconds(seconds))
        self.show(parts, share)


class LiveLine:
    """The line of the training's steps."""

    def __init__(self, show: Shower):
        self.show, self.terminal = show, show.terminal

    def update(self, fields: Mapping[str, Any]) -> None:
        """Show the fields of a step in place of the last one's."""
        step, steps = fields.get("step"), fields.get("steps")
        share = step / steps if isinstance(step, int | float) and isinstance(steps, int | float) and steps else None
        self.show(format_fields(fields), share)


class _PlainLines:
    terminal, seconds = False, _PLAIN_SECONDS

    def __init__(self, write: Write):
        self.write = write

    def __call__(self, parts: list[str], share: float | None) -> None:
        self.write("  ".join(parts))


class _QuietLines:
    terminal, seconds = False, _QUIET_SECONDS

    def __init__(self, write: Write):
        self.write, self.next = write, time.monotonic() + self.seconds

    def __call__(self, parts: list[str], share: float | None) -> None:
        if (now := time.monotonic()) >= self.next:
            self.next = now + self.seconds
            self.write("  ".join(parts))


class _RichLine:
    terminal = True

    def __init__(self, console: "Console", draw: Callable[[str], None]):
        self.console, self.draw = console, draw
        self.seconds = _NOTEBOOK_SECONDS if console.is_jupyter else 0.0
        self.next = 0.0

    def __call__(self, parts: list[str], share: float | None) -> None:
        if self.seconds:
            if (now := time.monotonic()) < self.next:
                return
            self.next = now + self.seconds
        # One column stays free: some terminals wrap when the last one is filled.
        line = fit(parts, self.console.width - 1, share, unicode=takes_unicode(self.console.file))
        self.draw(line)


@contextlib.contextmanager
def line_shower(quiet: bool, write: Write) -> Iterator[Shower]:
    """Open what shows a line on stderr; where it does not draw one, `write` writes plain lines, with `quiet` one a minute."""
    stream = sys.stderr
    if quiet:
        yield _QuietLines(write)
    elif not is_terminal(stream) and not _is_notebook():
        yield _PlainLines(write)
    else:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.text import Text

        console = Console(file=stream, highlight=False)
        # While it is up, what `say` writes to stderr appears above it. It leaves no trace: the result is what stays.
        with RichLive(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as line:
            yield _RichLine(console, lambda text: line.update(Text(text, no_wrap=True, overflow="crop"), refresh=True))


def _is_notebook() -> bool:
    """Whether output goes to a Jupyter notebook, by rich, which needs ipywidgets to show a line in place of the last one there."""
    if not hasattr(builtins, "get_ipython") or importlib.util.find_spec("ipywidgets") is None:
        return False  # without importing rich
    from rich.console import Console

    return Console().is_jupyter
