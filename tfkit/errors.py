"""Errors that a user can correct, each with the exit code of docs/cli.md. Any other exception is a bug (code 1)."""

import errno


class TfkitError(ValueError):
    """An error that a user can correct: its message has the problem, the place and the remedy. No traceback is shown."""

    exit_code = 1


class UsageError(TfkitError):
    """A wrong command line or recipe."""

    exit_code = 2


class DataError(TfkitError):
    """Data that are missing, empty or unreadable; the message names the file and the row."""

    exit_code = 3


class ModelError(TfkitError):
    """A model, checkpoint or tokenizer that is missing, incomplete, damaged, incompatible or refused as unsafe."""

    exit_code = 4


class OtherVersionError(ModelError):
    """A file in the format of a later version of tfkit: it may be complete, but this version cannot check it."""


class MachineError(TfkitError):
    """The environment: device, memory, disk, permission, a missing extra, a folder in use."""

    exit_code = 5


class UnhealthyError(TfkitError):
    """Training went wrong: a loss or a gradient that is not finite."""

    exit_code = 6


class QualityGateError(TfkitError):
    """A comparison given with --fail-if is true, or an exported file predicts otherwise than its model."""

    exit_code = 8


class PeerLostError(TfkitError):
    """Another process of the same training was lost, or did not answer in time."""

    exit_code = 9


class Stopped(Exception):
    """A run was stopped by a signal; raised after everything was saved. The exit code is 128 + the number of the signal."""

    result: dict[str, object] | None = None  # of a training: how far it came

    def __init__(self, message: str, signal_number: int = 2):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class BudgetReached(Stopped):
    """A training was stopped by its budget, after a checkpoint was saved if a step was taken."""

    def __init__(self, message: str, key: str, larger: str):
        super().__init__(message)
        self.exit_code = 7
        self.key = key  # of the recipe
        self.larger = larger  # a key=value with which the run can continue


def stop_reason(stopped: Stopped) -> str:
    """Return what a result says of why a training was stopped: the key of its budget, or "request"."""
    return stopped.key if isinstance(stopped, BudgetReached) else "request"


def how_to_install(extra: str) -> str:
    """Return the remedy for missing libraries of an extra."""
    return f"needs the extra {extra}: in the folder of tfkit, pip install -e '.[{extra}]'"


# The operating system's errors about a place or the machine, never about a mistake in a program.
_REFUSALS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ELOOP", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "EMFILE", "ENFILE")
    if hasattr(errno, name)
}


def refusal(error: BaseException) -> str | None:
    """Return the operating system's refusal in words; None if `error` may be a bug."""
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    place = f"{error.filename}: " if error.filename is not None else ""
    return f"{place}{error.strerror}: check the path, its permissions and its disk"


_OUT_OF_MEMORY = (
    "can't allocate memory",  # of the CPU's allocator
    "Cannot allocate memory",  # of the system
    "MPS backend out of memory",  # an Apple GPU's
    "CUDA error: out of memory",  # beside PyTorch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that the memory of the machine or the GPU is used up. By name and words: torch is not imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _OUT_OF_MEMORY)
