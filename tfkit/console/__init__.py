"""The only place that prints. The result goes to stdout, and nothing else does; messages, warnings and progress go to stderr.

Names and labels may come from folders of others, so control characters are escape sequences in all that is written for people.

On a terminal and in a notebook, progress is a live line (rich, imported when the first is drawn); elsewhere it is plain lines. Where the
locale is C or the stream cannot encode a character, messages are ASCII; a result is data and stays as it is, its JSON escaped.
"""

import contextlib
import json as json_module
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

from tfkit.console.characters import OBEYED, ascii_only, escaped, is_terminal, supports_unicode
from tfkit.console.characters import columns_of as columns_of
from tfkit.console.characters import cut as cut
from tfkit.console.characters import escaped_line as escaped_line
from tfkit.console.characters import fitted as fitted
from tfkit.console.characters import wrap as wrap
from tfkit.console.live_line import Counter, LiveLine, line_display
from tfkit.errors import MachineError, Stopped, TfkitError, error_document

_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"
_STYLES = {"red": _RED, "yellow": _YELLOW, "green": "\x1b[32m", "dim": "\x1b[2m", "bold": "\x1b[1m"}
# JSON allows these characters in a string, but some readers split lines at U+2028 and U+2029, and terminals obey the others.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*OBEYED, 0x2028, 0x2029)}
_quiet = False
_json_wanted = False  # an error is then a document on stdout, too
_json_written = False


class ReaderGone(Exception):
    """The reader of stdout is gone, as in `tfkit generate ... | head -1`: the program ends quietly, with exit code 0."""

    exit_code = 0


def begin(as_json: bool) -> None:
    """Begin a command: not quiet, and no result written yet; `as_json`: its errors are documents, too."""
    global _json_wanted, _json_written
    set_quiet(False)
    _json_wanted, _json_written = as_json, False


def set_quiet(quiet: bool) -> None:
    """Silence `say`, and limit `progress` and `live` to one line a minute; results, decisions, warnings and errors are still written."""
    global _quiet
    _quiet = quiet


# -- stdout: the result


def result(text: str) -> None:
    """Write a line of the result, for people. Raises ReaderGone for a broken pipe, MachineError if it cannot be written (a full disk)."""
    _write_result(escaped(text) + "\n")


def piece(text: str) -> None:
    """Write a part of a result that is data, such as a generated text, without a line break: it stays as it is, except on a terminal."""
    _write_result(escaped(text) if sys.stdout is not None and sys.stdout.isatty() else text)


def result_parts(parts: Sequence[tuple[str, str]]) -> None:
    """Write a line of the result from (text, style) pairs. The styles red, yellow, green, dim, bold and "" show on a terminal only."""
    styled = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    texts = ((result_text(text), style) for text, style in parts)
    _write_result("".join(f"{_STYLES[style]}{text}{_RESET}" if styled and style else text for text, style in texts) + "\n")


def result_text(text: str) -> str:
    """Return a text as `result_parts` writes it, which may be wider: with escape sequences, and in ASCII where the stream needs that."""
    line = escaped_line(text)
    return line if supports_unicode(sys.stdout) else ascii_only(line)


def result_token(token: str) -> str:
    """Return an entry of a vocabulary as `result_text` does, but in ASCII with a plain mark for the space before a word."""
    shown = result_text(token)
    return shown if shown == token else result_text(token.replace("Ġ", "_").replace("▁", "_"))


def result_columns() -> int | None:
    """Return the width of the terminal that shows the result; None if it goes elsewhere, where no line is wrapped."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def json(document: Any, error: TfkitError | Stopped | None = None) -> None:
    """Write a JSON document on one line, with the `error` that ends the command. ValueError for NaN and infinities: JSON has none."""
    global _json_written
    if error is not None:
        document = {**error_document(error.exit_code, str(error)), **document}
    _json_written = True
    text = json_module.dumps(document, ensure_ascii=not supports_unicode(sys.stdout), allow_nan=False)
    _write_result(text.translate(_JSON_ESCAPES) + "\n")


def error_result(text: str, code: int) -> None:
    """Write an error as a JSON document, unless the command writes text, or has written its result, which may describe the error better."""
    if _json_wanted and not _json_written:
        with contextlib.suppress(ReaderGone, MachineError):  # stdout is closed or full: stderr and the exit code remain
            json(error_document(code, text))


def _write_result(text: str) -> None:
    stream = sys.stdout
    if stream is None:
        raise ReaderGone  # stdout was closed before the program began
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        raise_write_error(error)


def raise_write_error(error: OSError) -> NoReturn:
    """Raise the error for a failed write to stdout: ReaderGone for a broken pipe, else MachineError (a full disk)."""
    _discard_buffer(sys.stdout)
    if isinstance(error, BrokenPipeError):
        raise ReaderGone from error
    raise MachineError(f"the result cannot be written to stdout: {error.strerror}; free the disk, or send it elsewhere") from error


# -- stderr: everything else


def say(text: str) -> None:
    """Report something worth knowing; silent with --quiet."""
    if not _quiet:
        _write_line(text)


def decided(text: str) -> None:
    """Report a decision that was made for the user, also with --quiet."""
    _write_line(text)


def warn(text: str) -> None:
    """Report something that may be wrong; the run continues."""
    _write_line(f"warning: {text}", _YELLOW)


def error(text: str) -> None:
    """Report an error. Nothing precedes the text, so that `file:line:column:` begins the line."""
    _write_line(text, _RED)


def fail(text: str, code: int) -> int:
    """Report the error that ends a command, and return its exit code."""
    error(text)
    error_result(text, code)
    return code


def acknowledge(text: str) -> None:
    """Report a signal, from any thread and at any moment: it bypasses the stream, to which another thread may be writing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        before = "\r\x1b[K" if is_terminal(sys.stderr) else ""  # over the live line
        os.write(sys.stderr.fileno(), f"{before}{ascii_only(text)}\n".encode())


def ask(prompt: str) -> str | None:
    """Return the line that the user types after a prompt, without its line break; None at the end of the input (Ctrl-D)."""
    if sys.stderr is not None:
        sys.stderr.write(prompt)
        sys.stderr.flush()
    line = sys.stdin.buffer.readline()
    return line.decode(sys.stdin.encoding, "replace").rstrip("\r\n") if line else None


def _write_line(text: str, colour: str = "") -> None:
    stream = sys.stderr
    if stream is None:
        return
    line = escaped(text) if supports_unicode(stream) else ascii_only(escaped(text))
    if colour and is_terminal(stream) and not os.environ.get("NO_COLOR"):
        line = f"{colour}{line}{_RESET}"
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except (OSError, ValueError):  # no reader, or a closed stream: no reason to lose a run
        _discard_buffer(stream)


def _discard_buffer(stream: TextIO) -> None:
    """Redirect a stream to the null device, since the interpreter flushes its buffer once more at exit."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as null:
        os.dup2(null.fileno(), stream.fileno())


# -- progress


@contextlib.contextmanager
def progress(description: str, total: int | None = None, unit: str = "") -> Iterator[Counter]:
    """Show a count up to `total` (None: unknown) in `unit`: off a terminal a line every ten seconds (quiet: a minute), and a last one."""
    with line_display(_quiet, _write_line) as show:
        yield (counter := Counter(description, total, unit, show))
        counter.finish()


@contextlib.contextmanager
def live() -> Iterator[LiveLine]:
    """Show the live line of training: one line that always fits the terminal; elsewhere a plain line for each update."""
    with line_display(_quiet, _write_line) as show:
        yield LiveLine(show)
