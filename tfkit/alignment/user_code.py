"""Permission to run the files of code that a recipe names, and `open_code`, the only function that runs such a file.

A file is identified by the SHA-256 of its content, so that a permission ends when the file changes. A file that the user's own recipe names
is recorded as allowed: in $XDG_STATE_HOME/tfkit/allowed_code (by default in ~/.local/state) by a file whose name is the SHA-256. The user
may delete such records at any time. This module does not import torch.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from tfkit.durable import user_folder, write_atomically
from tfkit.errors import UsageError, argument


@dataclass(frozen=True)
class CodePermission:
    """The files of code that a command may run: those with a SHA-256 in `hashes` and, if `noted`, those that the user allowed before."""

    hashes: frozenset[str] = frozenset()
    every_file: bool = False  # whether all other files may be run, too (--allow-code)
    noted: bool = True  # whether files that this user has allowed before may be run

    def with_named(self, paths: Iterable[str], warn: Callable[[str], None]) -> "CodePermission":
        """Return the permission extended by the files `paths`, which the user's own recipe names, and record these files as allowed.

        Files that cannot be read are left out. `warn` is called with a message about the first file that cannot be recorded.
        """
        hashes: dict[str, str] = {}
        for path in paths:
            with suppress(OSError):
                hashes[_sha256(Path(path).read_bytes())] = os.path.abspath(path)
        for sha256, path in hashes.items():
            if not self._has(sha256) and (problem := _note(sha256, path)) is not None:
                warn(
                    f"{path} is run, but not noted as allowed code ({problem}): a command that opens this run later needs "
                    f"{argument('allow_code', True)}"
                )
                break
        return replace(self, hashes=self.hashes | hashes.keys())

    def require(self, files: Mapping[str, str]) -> None:
        """Raise UsageError for a file that cannot be read or may not be run. `files`: the path of each file, by the field that names it."""
        for place, path in files.items():
            self._check(place, path, read_code(place, path))

    def _check(self, place: str, path: str, content: bytes) -> str:
        """Return the SHA-256 of a file's content. Raises UsageError if the file may not be run."""
        sha256 = _sha256(content)
        if not self.every_file and not self._has(sha256):
            raise UsageError(
                f"{place}: {path} is code, and you have not allowed its content (SHA-256 {sha256}): read it and, if you trust it, repeat "
                f"the command with {argument('allow_code', True)}"
            )
        return sha256

    def _has(self, sha256: str) -> bool:
        return sha256 in self.hashes or (self.noted and (folder := _notes()) is not None and os.path.exists(folder / sha256))


NO_CODE = CodePermission(noted=False)


def read_code(place: str, path: str) -> bytes:
    """Return the content of the file of code that the field `place` names, without running it. Raises UsageError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{place}: {path} does not exist: correct the path") from None
    except OSError as error:
        raise UsageError(f"{place}: {path} cannot be read ({error.strerror}): correct the path or its permissions") from None


def code_hashes(files: Mapping[str, str]) -> list[str]:
    """Return the SHA-256 of each file in `files`, paths by the field that names them. Raises UsageError if a file cannot be read."""
    return [_sha256(read_code(place, path)) for place, path in files.items()]


def open_code(place: str, path: str, permission: CodePermission) -> tuple[ModuleType, str]:
    """Run a file of code, and return its module and its SHA-256. Raises UsageError if the file cannot be read, may not be run, or fails.

    The content whose hash was checked is run; a compiled file (.pyc), which an import would prefer, is ignored. The module is added
    to `sys.modules`, where Python looks up the module of a dataclass or of a pickled object.
    """
    content = read_code(place, path)
    sha256 = permission._check(place, path, content)
    module = ModuleType(f"tfkit_code_{sha256}")
    module.__file__ = os.path.abspath(path)
    sys.modules[module.__name__] = module
    with running_code(f"{place}: {path} cannot be run"):
        exec(compile(content, module.__file__, "exec", dont_inherit=True), module.__dict__)
    return module, sha256


@contextmanager
def running_code(failure: str) -> Iterator[None]:
    """A context for a user's code: prints go to stderr; errors, except KeyboardInterrupt, become UsageErrors that begin with `failure`."""
    try:
        with redirect_stdout(sys.stderr):  # stdout carries the result of the command
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit, since the code may call sys.exit
        raise UsageError(f"{failure} ({type(error).__name__}: {error}): correct it") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _notes() -> Path | None:
    state = user_folder("XDG_STATE_HOME", ".local/state")
    return state / "tfkit" / "allowed_code" if state is not None else None


def _note(sha256: str, path: str) -> str | None:
    """Record that the user has allowed a file. Return None or, if the record cannot be written, the reason."""
    if (folder := _notes()) is None:
        return "there is no home folder"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / sha256, f"{path}\n")
    except (OSError, UnicodeError) as error:
        return f"{folder}: {getattr(error, 'strerror', None) or error}"
    return None
