"""The only package that prints. stdout has nothing but the result; messages, warnings and progress go to stderr.

Names and labels may come from untrusted folders, so control characters are replaced by escape sequences in all text for people.

On a terminal and in a notebook, progress is a live line, drawn by rich, which is imported for the first such line. Elsewhere,
progress is plain lines. A stream supports Unicode if its encoding is UTF-8, UTF-16 or UTF-32, and the locale is not C. On any other stream,
messages, `result_parts` and JSON are pure ASCII; in the rest of a result, the characters that the stream cannot encode are escaped.
"""

import contextlib
import json as json_module
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from tfkit.console.characters import OBEYED, ascii_only, escaped, is_terminal, supports_unicode
from tfkit.console.characters import columns_of as columns_of
from tfkit.console.characters import cut as cut
from tfkit.console.characters import escaped_line as escaped_line
from tfkit.console.characters import fitted as fitted
from tfkit.console.characters import wrap as wrap
from tfkit.console.live_line import Counter, LiveLine, discard_buffer, line_display
from tfkit.errors import MachineError, Stopped, TfkitError, error_document

_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"
_STYLES = {"red": _RED, "yellow": _YELLOW, "green": "\x1b[32m", "dim": "\x1b[2m", "bold": "\x1b[1m"}
# JSON allows these characters in a string, but some readers split lines at U+2028 and U+2029, and the others control a terminal.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*OBEYED, 0x2028, 0x2029)}
_quiet = False
_json_wanted = False  # whether an error is also written to stdout, as a JSON document
_json_written = False


class ReaderGone(Exception):
    """The process that reads stdout has exited, as in `tfkit generate ... | head -1`: the program ends quietly, with exit code 0."""

    exit_code = 0


def begin(as_json: bool) -> None:
    """Begin a command: not quiet, and no JSON written yet. `as_json`: whether an error of the command is also written as JSON."""
    global _json_wanted, _json_written
    set_quiet(False)
    _json_wanted, _json_written = as_json, False


def set_quiet(quiet: bool) -> None:
    """Set whether to be quiet. If quiet, `say` writes nothing, and `progress` and `live` write at most a line per minute."""
    global _quiet
    _quiet = quiet


# -- stdout: the result


def result(text: str) -> None:
    """Write a line of the result, for people. Raises ReaderGone for a broken pipe, MachineError for other failures, such as a full disk."""
    _write_result(escaped(text) + "\n")


def piece(text: str) -> None:
    """Write data, such as a generated text, as a part of the result, without a line break. On a terminal, the data are escaped."""
    _write_result(escaped(text) if sys.stdout is not None and sys.stdout.isatty() else text)


def result_parts(parts: Sequence[tuple[str, str]]) -> None:
    """Write a line of the result from (text, style) pairs. Only a terminal shows the styles: red, yellow, green, dim, bold, "" for none."""
    styled = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    texts = ((result_text(text), style) for text, style in parts)
    _write_result("".join(f"{_STYLES[style]}{text}{_RESET}" if styled and style else text for text, style in texts) + "\n")


def result_text(text: str) -> str:
    """Return a text in the form that `result_parts` writes: escaped, so possibly wider, and in ASCII unless stdout supports Unicode."""
    line = escaped_line(text)
    return line if supports_unicode(sys.stdout) else ascii_only(line)


def result_token(token: str) -> str:
    """Return `result_text` of a vocabulary entry. If stdout cannot show all its characters, the marks for a space (Ġ, ▁) become "_"."""
    shown = result_text(token)
    return shown if shown == token else result_text(token.replace("Ġ", "_").replace("▁", "_"))


def result_columns() -> int | None:
    """Return the width of the terminal that shows the result, in columns; None if stdout is no terminal, so lines need not be wrapped."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def json(document: Any, error: TfkitError | Stopped | None = None) -> None:
    """Write a JSON document on one line, including `error`, if an error ends the command. Raises ValueError for NaN and infinities."""
    global _json_written
    if error is not None:
        document = {**error_document(error.exit_code, str(error)), **document}
    _json_written = True
    text = json_module.dumps(document, ensure_ascii=not supports_unicode(sys.stdout), allow_nan=False)
    _write_result(text.translate(_JSON_ESCAPES) + "\n")


def error_result(text: str, code: int) -> None:
    """With --json, write an error as a JSON document, unless the command has already written a JSON document."""
    if _json_wanted and not _json_written:
        with contextlib.suppress(ReaderGone, MachineError):  # stdout is closed or full: the error is still reported on stderr
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
    """Raise the error for a failed write to stdout: ReaderGone for a broken pipe, MachineError for any other cause, such as a full disk."""
    discard_buffer(sys.stdout)
    if isinstance(error, BrokenPipeError):
        raise ReaderGone from error
    raise MachineError(f"the result cannot be written to stdout: {error.strerror}; free some space, or redirect it elsewhere") from error


# -- stderr: everything else


def say(text: str) -> None:
    """Write information for the user; nothing with --quiet."""
    if not _quiet:
        _write_line(text)


def decided(text: str) -> None:
    """Write a decision that tfkit made for the user, also with --quiet."""
    _write_line(text)


def warn(text: str) -> None:
    """Write a warning about something that does not end the run."""
    _write_line(f"warning: {text}", _YELLOW)


def error(text: str) -> None:
    """Write an error message, without a prefix, so that the line begins with the message's `file:line:column:`, if any."""
    _write_line(text, _RED)


def fail(text: str, code: int) -> int:
    """Write the error that ends a command, with --json also as a document on stdout, and return its exit code."""
    error(text)
    error_result(text, code)
    return code


def acknowledge(text: str) -> None:
    """Write the acknowledgement of a signal. To be safe at any time and in any thread, it bypasses `sys.stderr`, which may be in use."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        before = "\r\x1b[K" if is_terminal(sys.stderr) else ""  # erases the live line
        os.write(sys.stderr.fileno(), f"{before}{ascii_only(text)}\n".encode())


def ask(prompt: str) -> str | None:
    """Return the line that the user types after a prompt, without its line break; None at the end of the input (Ctrl-D)."""
    if sys.stderr is not None:
        sys.stderr.write(escaped(prompt))
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
    except (OSError, ValueError):  # a run must not end because stderr is closed or nobody reads it
        discard_buffer(stream)


# -- progress


@contextlib.contextmanager
def progress(description: str, total: int | None = None, unit: str = "") -> Iterator[Counter]:
    """A context with a counter that shows its progress: on a terminal or in a notebook as a live line; elsewhere as a plain line every ten
    seconds and, if there was such a line, one with the final count. With --quiet, plain lines are written at least a minute apart.

    `total`: the count at the end; None: unknown. `unit`: the name of the counted things, in the plural.
    """
    with line_display(_quiet, _write_line) as show:
        yield (counter := Counter(description, total, unit, show))
        counter.finish()


@contextlib.contextmanager
def live() -> Iterator[LiveLine]:
    """A context with the progress line of a training: on a terminal a live line, cut to the terminal's width; elsewhere a plain line for
    each update. With --quiet, at most one plain line is written per minute.
    """
    with line_display(_quiet, _write_line) as show:
        yield LiveLine(show)
