"""Lines of progress. On a terminal or in a notebook, rich redraws one line; elsewhere, plain lines are written, without importing rich."""

import builtins
import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO, cast

from tfkit.console.characters import escaped_line, fit, is_terminal, supports_unicode
from tfkit.units import format_count, format_fields, format_seconds

_LIVE_SECONDS, _PLAIN_SECONDS = 0.1, 10.0  # the least seconds between two live lines of a counter, and between two plain lines
_QUIET_SECONDS = 60.0  # the least seconds between two plain lines with --quiet
_NOTEBOOK_SECONDS = 0.1  # the least seconds between two live lines in a notebook, where each line is a message to the browser


class LineDisplay:
    """Shows lines of progress: on a terminal and in a notebook (`terminal`) each in place of the previous one, elsewhere as plain lines."""

    def __init__(self, draw: Callable[[list[str], float | None], None], *, terminal: bool = False, pause: float = 0.0, due: float = 0.0):
        self.draw, self.terminal = draw, terminal
        self.pause, self.due = pause, due  # the least seconds between two lines, and the time before which no line is shown

    def __call__(self, parts: list[str], fraction: float | None) -> None:
        """Show the parts in one line, on a terminal with a bar for the completed fraction (None: no bar)."""
        if self.pause:
            if (now := time.monotonic()) < self.due:
                return
            self.due = now + self.pause
        self.draw(parts, fraction)


class Counter:
    """A running count, shown in a line with the description, the count, the total and the remaining time."""

    def __init__(self, description: str, total: int | None, unit: str, show: LineDisplay):
        self.description, self.total, self.unit, self.show = description, total, unit, show
        self.done = 0
        self.started = time.monotonic()
        self.shown = False
        self.due = self.started + (2 * _LIVE_SECONDS if show.terminal else _PLAIN_SECONDS)

    def advance(self, count: int = 1) -> None:
        """Add to the count, and show the line if `due`, the earliest time for it, has passed."""
        self.done += count
        if (now := time.monotonic()) >= self.due:
            self.due = now + (_LIVE_SECONDS if self.show.terminal else _PLAIN_SECONDS)
            self._draw(now)

    def finish(self) -> None:
        """Write a last plain line, if `advance` has written one. A live line is not shown again."""
        if self.shown and not self.show.terminal:
            self._draw(time.monotonic())

    def _draw(self, now: float) -> None:
        self.shown = True
        seconds, fraction = now - self.started, self.done / self.total if self.total else None
        total = f"/{format_count(self.total)}" if self.total else ""
        parts = [self.description, f"{format_count(self.done)}{total} {self.unit}".rstrip()]
        if fraction and fraction < 1:
            parts.append(f"ETA {format_seconds(seconds / fraction - seconds)}")
        elif fraction:
            parts.append(format_seconds(seconds))
        self.show(parts, fraction)


class LiveLine:
    """The line that shows the latest step of a training."""

    def __init__(self, show: LineDisplay):
        self.show, self.terminal = show, show.terminal

    def update(self, fields: Mapping[str, Any]) -> None:
        """Show the fields of a step, on a terminal in place of those of the previous step."""
        step, steps = fields.get("step"), fields.get("steps")
        fraction = step / steps if isinstance(step, int | float) and isinstance(steps, int | float) and steps else None
        self.show(format_fields(fields), fraction)


def discard_buffer(stream: TextIO) -> None:
    """Redirect a stream to the null device, since the interpreter flushes the stream's buffer at exit, which would fail again."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as null:
        os.dup2(null.fileno(), stream.fileno())


class _Unfailing:
    """A stream for rich whose writes do not fail: if the terminal is closed, the text is discarded, so that the run does not end."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            discard_buffer(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            discard_buffer(self._stream)


@contextlib.contextmanager
def line_display(quiet: bool, write: Callable[[str], None]) -> Iterator[LineDisplay]:
    """A context with a display of lines on stderr. If stderr is no terminal or notebook, or `quiet` is set, `write` writes plain lines."""
    stream = sys.stderr
    if quiet or not (is_terminal(stream) or _is_notebook()):
        pause = _QUIET_SECONDS if quiet else 0.0
        yield LineDisplay(lambda parts, _: write("  ".join(parts)), pause=pause, due=time.monotonic() + pause if quiet else 0.0)
    else:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.text import Text

        console = Console(file=cast(TextIO, _Unfailing(stream)), highlight=False)
        # While the line is shown, rich prints messages on stderr above the line. At the end, rich erases the line.
        with RichLive(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as line:

            def draw(parts: list[str], fraction: float | None) -> None:
                # The last column stays empty, because some terminals begin a new line when it is filled.
                text = fit([*map(escaped_line, parts)], console.width - 1, fraction, unicode=supports_unicode(console.file))
                line.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)

            yield LineDisplay(draw, terminal=True, pause=_NOTEBOOK_SECONDS if console.is_jupyter else 0.0)


def _is_notebook() -> bool:
    """Return whether the output goes to a Jupyter notebook with ipywidgets, in which rich can redraw a line."""
    if not hasattr(builtins, "get_ipython") or importlib.util.find_spec("ipywidgets") is None:
        return False  # decided without importing rich, which takes time
    from rich.console import Console

    return Console().is_jupyter
