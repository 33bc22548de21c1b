"""Errors that a user can correct, each with its exit code (docs/cli.md). Any other exception is a bug (exit code 1), unless it is an
interruption (`Stopped`, Ctrl-C), an operation that the operating system refuses, exhausted memory, or a closed stdout.

Messages have the form "PLACE: what is wrong; what to do", as far as known. With --json, a command writes its error as a JSON document:
{"error": {"code", "kind", "message", "place", "remedy"}}.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class TfkitError(ValueError):
    """An error that a user can correct: its message names the problem and, if known, the place and the remedy. No traceback is shown."""

    exit_code = 1


class UsageError(TfkitError):
    """A wrong command line or recipe."""

    exit_code = 2


class SpentBudgetError(UsageError):
    """A run or a sweep that cannot continue, because its budget (a limit on time, energy or emissions) is used up."""

    def __init__(self, problem: str, larger: str):
        super().__init__(problem)
        self.larger = larger  # key=value: the field of the budget, and a value large enough to continue

    def __str__(self) -> str:
        return f"{self.args[0]}. Give a larger budget to continue, such as {self.larger}"


class DataError(TfkitError):
    """Data that are missing, empty or unreadable; the message names the file, and the row if one is at fault."""

    exit_code = 3


class ModelError(TfkitError):
    """A model, checkpoint or tokenizer that is missing, incomplete, damaged, incompatible or refused as unsafe."""

    exit_code = 4


class OtherVersionError(ModelError):
    """A file that a later version of tfkit wrote in a newer format: it may be complete, but this version cannot check it."""


class MachineError(TfkitError):
    """A problem of the environment: the device, memory, disk or a permission, a missing optional dependency, a folder in use."""

    exit_code = 5


class InsufficientMemoryError(MachineError):
    """A model that does not fit into the memory, or whose training steps do not."""


class UnhealthyError(TfkitError):
    """A training whose loss or gradient is not finite, or that passed a limit of the recipe, such as objective.kl_stop."""

    exit_code = 6


class QualityGateError(TfkitError):
    """A comparison in --fail-if, such as `loss > 3`, that is true, or an exported file whose predictions differ from those of its model."""

    exit_code = 8


class PeerLostError(TfkitError):
    """Another rank (process) of the same command that ended unexpectedly, or did not answer in time."""

    exit_code = 9


class Stopped(Exception):
    """Raised when a signal or the library's caller stops a command; a training that took a step is saved first. Exit code: 128 + signal."""

    reason = "request"  # the field `stopped_by` of a result: "request", or the recipe's field whose limit was reached
    result: dict[str, object] | None = None  # the result of a training up to the stop; None if it had taken no step
    runs_code = False  # whether the training runs the user's code, so that the command that resumes it needs --allow-code

    def __init__(self, message: str, signal_number: int = 2):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class BudgetReached(Stopped):
    """Raised if a budget stopped a training. A checkpoint was saved first, unless the training had taken no step."""

    def __init__(self, message: str, key: str, larger: str):
        super().__init__(message)
        self.exit_code = 7
        self.reason = key
        self.larger = larger  # key=value: the field of the budget, and a value large enough to continue


def how_to_install(extra: str) -> str:
    """Return the end of a message about missing libraries: how to install the optional dependency group (extra) `extra`."""
    return f"needs the extra {extra}: in the folder of tfkit, pip install -e '.[{extra}]'"


# Error numbers of the operating system whose cause is a path or the machine, and not a mistake in the program.
_REFUSALS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC),
    *(errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE),
}


def refusal(error: BaseException) -> str | None:
    """Return the message for an operation that the operating system refused; None for any other error, which may be a bug."""
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return f"{error}: this library cannot be loaded; allow the process more memory (ulimit -v), or use a disk without noexec"
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    place = f"{error.filename}: " if error.filename is not None else ""
    return f"{place}{error.strerror}: check the path, its permissions and its disk"


@contextmanager
def writing(place: object, remedy: str) -> Iterator[None]:
    """A context for code that writes `place`. Its OSError becomes a MachineError whose message ends with `remedy`."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"{place}: cannot be written ({reason_of(error)}); {remedy}") from error


_OUT_OF_MEMORY = (
    "can't allocate memory",  # PyTorch's allocator on a CPU
    "Cannot allocate memory",  # the operating system
    "MPS backend out of memory",  # an Apple GPU
    "CUDA error: out of memory",  # CUDA, outside PyTorch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or the name of the error's class if the message is blank."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason_of(error: BaseException) -> str:
    """Return the reason for an operating system's error without the path, such as `Permission denied`; any other error's message."""
    return getattr(error, "strerror", None) or str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that the memory of the machine or GPU is exhausted. PyTorch's error is recognised without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _in_python(name: str, value: object) -> str:
    return f"`{name}`" if value is None else f"`{name}={value}`" if isinstance(value, bool) else f"{name}={value}"


_form: Callable[[str, object], str] = _in_python


def argument(name: str, value: object = None) -> str:
    """Return the name of an argument, with its value unless that is None, for a message: `run`, start=CKPT or `resume=True`.

    Within the context `naming`, the argument has the form of that context, such as the command line's: --run, --from CKPT, --resume.
    """
    return _form(name, value)


def path_argument(path: Path) -> str:
    """Return a path as a command-line argument, not quoted. A path that begins with a dash gets ./ before it, or it would be an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


@contextmanager
def naming(form: Callable[[str, object], str]) -> Iterator[None]:
    """A context in which `argument` returns `form(name, value)`, such as the option of a command."""
    global _form
    before, _form = _form, form
    try:
        yield
    finally:
        _form = before


KINDS = {  # by exit code; any other code means "stopped"
    1: "bug",
    2: "usage",
    3: "data",
    4: "model",
    5: "environment",
    6: "unhealthy",
    7: "budget",
    8: "gate",
    9: "peer",
}
_STAGE = re.compile(r"stage [A-Za-z][\w-]*: ")  # begins a message about one of a recipe's successive trainings; not part of the place
_LONGEST_PLACE = 300  # characters; if more precede the first colon of a message, they are not taken for a place
_SPACED_PLACE = re.compile(r"(?:--|/|\./|\.\./|~|command line$|hub data set |(?:step|prompt) \d+$)|[^;,]*\.\w{1,8}(?::\d+){0,2}$")
_IMPERATIVES = (
    "add|average|check|choose|copy|continue|correct|delete|end|fetch|free|give|in the folder of tfkit, pip|leave|load|lower|make|"
    "mend|merge|name|put|raise|remove|rename|repair|replay|restore|resume|revert|run|save|set|shorten|split|start|stop|take|train|"
    "try|unpack|unset|use|wait|write"
)
_REMEDY = re.compile(rf"(?:^|(?<=[;.?:]) |\n)(?=(?:{_IMPERATIVES})\b)|\n(?=tfkit )", re.IGNORECASE)
_MEANT = re.compile(r"did you mean .+")


def error_document(code: int, message: str) -> dict[str, Any]:
    """Return the JSON document for an error. Place and remedy are parsed from the message, and None if the message does not have them."""
    place, _, rest = _STAGE.sub("", message, count=1).partition(": ")
    if not rest or code == 1 or len(place) > _LONGEST_PLACE or "\n" in place or (" " in place and not _SPACED_PLACE.match(place)):
        place, rest = "", message
    remedy, meant = _REMEDY.search(rest), _MEANT.search(rest)
    return {
        "error": {
            "code": code,
            "kind": KINDS.get(code, "stopped"),
            "message": message,
            "place": place or None,
            "remedy": rest[remedy.end() :].strip() if remedy else meant and meant[0],
        }
    }
