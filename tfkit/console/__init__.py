"""The only place that prints. The result goes to stdout and nothing else does; words, warnings and progress go to stderr.

On a terminal, and in a notebook, progress is a live line (rich, imported when it is first drawn); elsewhere it is plain lines. Where the
locale is C or the stream cannot write a character, what we say is ASCII; a result is data and stays as it is, its JSON escaped.
"""

import contextlib
import json as json_module
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

from tfkit.console.characters import ascii_only, is_terminal, takes_unicode
from tfkit.console.characters import columns_of as columns_of
from tfkit.console.live_line import Counter, LiveLine, line_shower
from tfkit.error_document import error_document
from tfkit.errors import MachineError, Stopped, TfkitError

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
    styled = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    ascii_wanted = not takes_unicode(sys.stdout)
    texts = ((ascii_only(text) if ascii_wanted else text, style) for text, style in parts)
    _write_result("".join(f"{_STYLES[style]}{text}{_RESET}" if styled and style else text for text, style in texts) + "\n")


def result_columns() -> int | None:
    """Return the width of the terminal that shows the result; None: the result goes elsewhere, where a line is a line."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def json(document: Any, error: TfkitError | Stopped | None = None) -> None:
    """Write a JSON document on one line; NaN and infinities are refused, since JSON has none. `error`: what the command ends with."""
    global _json_written
    if error is not None:
        document = {**error_document(error.exit_code, str(error)), **document}
    _json_written = True
    text = json_module.dumps(document, ensure_ascii=not takes_unicode(sys.stdout), allow_nan=False)
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
    """Report something that may be wrong; the run continues."""
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
        before = "\r\x1b[K" if is_terminal(sys.stderr) else ""  # over the live line
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
    line = text if takes_unicode(stream) else ascii_only(text)
    if colour and is_terminal(stream) and not os.environ.get("NO_COLOR"):
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
def progress(description: str, total: int | None = None, unit: str = "") -> Iterator[Counter]:
    """Count up to `total` (None: unknown) in `unit`. Off a terminal: a line every ten seconds (quiet: every minute), and
    the last one if there was any.
    """
    with line_shower(_quiet, _write_line) as show:
        yield (counter := Counter(description, total, unit, show))
        counter.finish()


@contextlib.contextmanager
def live() -> Iterator[LiveLine]:
    """Show the live line of training: one line that always fits the terminal; elsewhere a plain line for each update."""
    with line_shower(_quiet, _write_line) as show:
        yield LiveLine(show)
