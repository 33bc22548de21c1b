"""The messages of errors as the library gives them: an option of the command line is named as the argument that it is there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tfkit.errors import TfkitError

_ARGUMENTS = {
    "--from": "start",
    "--resume": "resume=True",
    "--exact": "exact=True",
    "--force": "force=True",
    "--chat": "chat=True",
    "--no-verify": "verify=False",
    **{f"--{name}": name for name in ("run", "data", "stages", "trials", "predictions", "device", "threads", "probe", "ranks", "gpu")},
}
# Commands in backticks stay; so does an option that the library has not. A name in capitals is a place for a value: --from CKPT.
_OPTION = re.compile(rf"`[^`]*`|(?<![\w-])({'|'.join(_ARGUMENTS)})(?![\w-])( (?=[A-Z]+\b))?")


@contextmanager
def naming_arguments() -> Iterator[None]:
    """Let an error of the block name `run` where its message has --run, and start=CKPT for --from CKPT. Also a decorator."""
    try:
        yield
    except TfkitError as error:
        error.args = (in_arguments(str(error)), *error.args[1:])
        raise


def in_arguments(message: str) -> str:
    """Return a message that names arguments instead of options."""
    return _OPTION.sub(_argument, message)


def _argument(found: re.Match[str]) -> str:
    option, value_follows = found.groups()
    if option is None:
        return found[0]
    return f"{_ARGUMENTS[option]}=" if value_follows else f"`{_ARGUMENTS[option]}`"
