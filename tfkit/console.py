"""The only place that prints. The result goes to stdout and nothing else does; words, warnings and progress go to stderr.

On a terminal, and in a notebook, progress is a live line (rich, imported when it is first drawn); elsewhere it is plain lines. Where the
locale is C or the stream cannot write a character, what we say is ASCII; a result is data and stays as it is, its JSON escaped.
"""

import builtins
import contextlib
import importlib.util
import json as json_module
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO

from tfkit.error_document import error_document
from tfkit.errors import MachineError, Stopped, TfkitError
from tfkit.units import format_count, format_fields, format_seconds

if TYPE_CHECKING:
    from typing import IO

    from rich.console import Console

_PLAIN_SECONDS = 10.0  # between plain lines of progress
_QUIET_SECONDS = 60.0  # between lines with --quiet
_NOTEBOOK_SECONDS = 0.1  # between live lines, of which each is a message to the browser
_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"
_STYLES = {"red": _RED, "yellow": _YELLOW, "green": "\x1b[32m", "dim": "\x1b[2m", "bold": "\x1b[1m"}
_LINE_SEPARATORS = {
    ord(one): f"\\u{ord(one):04x}" for one in "\x85\u2028\u2029"
}  # which JSON allows in a string, and readers split lines at
_quiet = False
_json_wanted = False  # so that an error is a document on stdout, too
_json_written = False


class ReaderGone(Exception):
    """Nobody reads stdout any more, as in `tfkit generate ... | head -1`: the program ends quietly, with 0."""

    exit_code = 0


def begin(as_json: bool) -> None:
    """Begin a command: it is not quiet until it says so, and has written nothing; `as_json`: its errors are documents, too."""
    global _json_wanted, _json_written
    set_quiet(False)
    _json_wanted, _json_written = as_json, False


def set_quiet(quiet: bool) -> None:
    """Silence `say`, and leave one line a minute of `progress` and `live`; results, decisions, warnings and errors stay."""
    global _quiet
    _quiet = quiet


# -- stdout: the result


def result(text: str) -> None:
    """Write a line of the result. ReaderGone: the reader has had enough; MachineError: it cannot be written (a full disk)."""
    _write_result(text + "\n")


def piece(text: str) -> None:
    """Write a part of a result that is still being made, without an end of line."""
    _write_result(text)


def result_parts(parts: Sequence[tuple[str, str]]) -> None:
    """Write a line of the result made of (text, style): red, yellow, green, dim, bold or "". Styles show on a terminal only."""
    styled = _is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    ascii_wanted = not _unicode(sys.stdout)
    texts = ((ascii_only(text) if ascii_wanted else text, style) for text, style in parts)
    _write_result("".join(f"{_STYLES[style]}{text}{_RESET}" if styled and style else text for text, style in texts) + "\n")


def result_columns() -> int | None:
    """Return the width of the terminal that shows the result; None: the result goes elsewhere, where a line is a line."""
    return shutil.get_terminal_size().columns if _is_terminal(sys.stdout) else None


def columns_of(text: str) -> int:
    """Return the width of a text on a terminal: some characters take two columns, some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def json(document: Any, error: TfkitError | Stopped | None = None) -> None:
    """Write a JSON document on one line; NaN and infinities are refused, since JSON has none. `error`: what the command ends with."""
    global _json_written
    if error is not None:
        document = {**error_document(error.exit_code, str(error)), **document}
    _json_written = True
    text = json_module.dumps(document, ensure_ascii=not _unicode(sys.stdout), allow_nan=False)
    _write_result(text.translate(_LINE_SEPARATORS) + "\n")


def error_result(text: str, code: int) -> None:
    """Write an error as a JSON document, if the command's result is one and was not written: that may say more of the error."""
    if _json_wanted and not _json_written:
        with contextlib.suppress(ReaderGone, MachineError):  # stdout is gone or full: there is stderr, and the exit code
            json(error_document(code, text))


def _write_result(text: str) -> None:
    stream = sys.stdout
    if stream is None:
        raise ReaderGone  # it was closed before the program began
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        result_failed(error)


def result_failed(error: OSError) -> NoReturn:
    """Raise for a stdout that was not written: ReaderGone for a broken pipe, else MachineError (a full disk)."""
    _drop(sys.stdout)
    if isinstance(error, BrokenPipeError):
        raise ReaderGone from error
    raise MachineError(f"the result cannot be written to stdout: {error.strerror}; free the disk, or send it elsewhere") from error


# -- stderr: everything else


def say(text: str) -> None:
    """Report something worth knowing; silent with --quiet."""
    if not _quiet:
        _write_line(text)


def decided(text: str) -> None:
    """Report what was decided for the user, also with --quiet."""
    _write_line(text)


def warn(text: str) -> None:
    """Report something that may be wrong; the run goes on."""
    _write_line(f"warning: {text}", _YELLOW)


def error(text: str) -> None:
    """Report an error. Nothing comes before it, so that `file:line:column:` begins the line."""
    _write_line(text, _RED)


def fail(text: str, code: int) -> int:
    """Report the error that ends a command, and return its exit code."""
    error(text)
    error_result(text, code)
    return code


def acknowledge(text: str) -> None:
    """Report a signal, from any thread and at any moment: past the stream, which another thread may be writing to."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        before = "\r\x1b[K" if _is_terminal(sys.stderr) else ""  # over the live line
        os.write(sys.stderr.fileno(), f"{before}{ascii_only(text)}\n".encode())


def ask(prompt: str) -> str | None:
    """Return the line that a person types after a prompt, without its end; None if nothing more comes (Ctrl-D)."""
    if sys.stderr is not None:
        sys.stderr.write(prompt)
        sys.stderr.flush()
    line = sys.stdin.buffer.readline()
    return line.decode(sys.stdin.encoding, "replace").rstrip("\r\n") if line else None


def _write_line(text: str, colour: str = "") -> None:
    stream = sys.stderr
    if stream is None:
        return
    line = text if _unicode(stream) else ascii_only(text)
    if colour and _is_terminal(stream) and not os.environ.get("NO_COLOR"):
        line = f"{colour}{line}{_RESET}"
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except (OSError, ValueError):  # nobody reads it, or it is closed: no reason to lose a run
        _drop(stream)


def _drop(stream: TextIO) -> None:
    """Discard what is left in the stream; the interpreter flushes it once more on its way out."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


# -- progress


@contextlib.contextmanager
def progress(description: str, total: int | None = None, unit: str = "") -> Iterator["_Counter"]:
    """Count up to `total` (None: unknown) in `unit`. Off a terminal: a line every ten seconds (quiet: every minute), and
    the last one if there was any.
    """
    with _line_shower() as show:
        yield (counter := _Counter(description, total, unit, show))
        counter.finish()


@contextlib.contextmanager
def live() -> Iterator["_LiveLine"]:
    """Show the live line of training: one line that always fits the terminal; elsewhere a plain line for each update."""
    with _line_shower() as show:
        yield _LiveLine(show)


class _Shower(Protocol):
    """Shows one line in place of the last one; `terminal` says whether it does, or writes plain lines, `seconds` apart."""

    terminal: bool
    seconds: float

    def __call__(self, parts: list[str], share: float | None) -> None: ...


class _Counter:
    def __init__(self, description: str, total: int | None, unit: str, show: _Shower):
        self.description, self.total, self.unit, self.show = description, total, unit, show
        self.done = 0
        self.begin = time.monotonic()
        self.shown = False
        self.next = self.begin + (0.2 if show.terminal else show.seconds)

    def advance(self, count: int = 1) -> None:
        self.done += count
        if (now := time.monotonic()) >= self.next:
            self.next = now + (0.1 if self.show.terminal else self.show.seconds)
            self._draw(now)

    def finish(self) -> None:
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


class _LiveLine:
    def __init__(self, show: _Shower):
        self.show, self.terminal = show, show.terminal

    def update(self, fields: Mapping[str, Any]) -> None:
        step, steps = fields.get("step"), fields.get("steps")
        share = step / steps if isinstance(step, int | float) and isinstance(steps, int | float) and steps else None
        self.show(format_fields(fields), share)


class _PlainLines:
    terminal, seconds = False, _PLAIN_SECONDS

    def __call__(self, parts: list[str], share: float | None) -> None:
        _write_line("  ".join(parts))


class _QuietLines:
    terminal, seconds = False, _QUIET_SECONDS

    def __init__(self) -> None:
        self.next = time.monotonic() + self.seconds

    def __call__(self, parts: list[str], share: float | None) -> None:
        if (now := time.monotonic()) >= self.next:
            self.next = now + self.seconds
            _write_line("  ".join(parts))


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
        line = fit(parts, self.console.width - 1, share, unicode=_unicode(self.console.file))
        self.draw(line)


@contextlib.contextmanager
def _line_shower() -> Iterator[_Shower]:
    stream = sys.stderr
    if _quiet:
        yield _QuietLines()
    elif not _is_terminal(stream) and not _is_notebook():
        yield _PlainLines()
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


def fit(parts: list[str], width: int, share: float | None = None, *, unicode: bool = True) -> str:
    """Join the parts to a line of at most `width` characters; those at the right are dropped if need be; a bar where there is room."""
    parts = parts if unicode else [ascii_only(part) for part in parts]
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            break
        line = longer
    else:
        room = min(width - len(line) - 2, 30)
        if share is not None and room >= 10:
            done = round(room * min(max(share, 0.0), 1.0))
            full, empty = ("━", "─") if unicode else ("#", "-")
            line += "  " + full * done + empty * (room - done)
    return line or parts[0][: max(width, 0)] if parts else ""


# -- characters

_ASCII = str.maketrans(
    dict(
        zip(
            "–—−‐‘’‚“”„·•×µμ≤≥≈±…→←═━─│",
            ["-"] * 4 + ["'"] * 3 + ['"'] * 3 + list("**xuu") + ["<=", ">=", "~", "+-", "...", "->", "<-", *"==-|"],
            strict=True,
        )
    )
    | {"₂": "2", "\xa0": " ", "°": " deg"}
)


def ascii_only(text: str) -> str:
    """Return the text in ASCII: dashes, quotes and arrows as they are typed, any other character as its code."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def _unicode(stream: "IO[str] | TextIO | None") -> bool:
    """Whether the stream, and the locale behind it, take any character. Python itself writes UTF-8 in the locale C."""
    if os.name == "posix":
        locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "C")
        if locale in ("C", "POSIX"):
            return False
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def _is_terminal(stream: "TextIO | None") -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
