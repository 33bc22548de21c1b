"""What a user can do wrong, each with the exit code of docs/cli.md. Anything else that is raised is a bug (code 1)."""

import errno


class TfkitError(ValueError):
    """An error that a user can mend: the message says what is wrong, where, and what to do. No traceback is shown."""

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
    """A file in a form that a later version of tfkit wrote: it may be whole, and this version cannot tell."""


class MachineError(TfkitError):
    """The environment: device, memory, disk, permission, a missing extra, a folder in use."""

    exit_code = 5


class UnhealthyError(TfkitError):
    """Training went wrong: a loss or a gradient that is not finite."""

    exit_code = 6


class QualityGateError(TfkitError):
    """A comparison given with --fail-if came true."""

    exit_code = 8


class Stopped(Exception):
    """A run was asked to stop; raised after everything was saved. The exit code is 128 + the number of the signal that asked."""

    result: dict[str, object] | None = None  # of a training: how far it came

    def __init__(self, message: str, signal_number: int = 2):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def how_to_install(extra: str) -> str:
    """The remedy where the libraries of an extra are missing."""
    return f"needs the extra {extra}: in the folder of tfkit, pip install -e '.[{extra}]'"


# What the operating system says of a place or of the machine, and never of a mistake in a program.
_REFUSALS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ELOOP", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "EMFILE", "ENFILE")
    if hasattr(errno, name)
}


def refusal(error: BaseException) -> str | None:
    """For people, what the operating system refused; None if `error` may be a bug."""
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
    """Whether `error` says that the memory of the machine or the GPU is used up. By name and words: torch is not imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _OUT_OF_MEMORY)
