"""Error messages of the library, which name an argument in place of an option of the command line."""

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
    "--allow-code": "allow_code=True",
    "--no-verify": "verify=False",
    **{
        f"--{name}": name
        for name in ("run", "data", "precision", "stages", "trials", "predictions", "device", "threads", "probe", "ranks", "gpu")
    },
}
# Commands in backticks are kept, and options that the library lacks. A name in capitals is the place of a value: --from CKPT.
_OPTION = re.compile(rf"`[^`]*`|(?<![\w-])({'|'.join(_ARGUMENTS)})(?![\w-])( (?=[A-Z]+\b))?")


@contextmanager
def naming_arguments() -> Iterator[None]:
    """Let errors of the block name the argument `run` in place of --run, and start=CKPT in place of --from CKPT. Also a decorator."""
    try:
        yield
    except TfkitError as error:
        error.args = (in_arguments(str(error)), *error.args[1:])
        raise


def in_arguments(message: str) -> str:
    """Return a message that names arguments instead of options."""
    return _OPTION.sub(_argument, message)


def _argument(match: re.Match[str]) -> str:
    option, value_follows = match.groups()
    if option is None:
        return match[0]
    return f"{_ARGUMENTS[option]}=" if value_follows else f"`{_ARGUMENTS[option]}`"
