"""The process that renders a chat template. template.py starts this process, and exchanges lines of JSON with it.

A template comes with a checkpoint, so it is untrusted code. jinja2's sandbox blocks access to Python's internals; the limits of this
process bound the template's time and memory, and the harm if it escapes the sandbox. This file is run as a script: it imports jinja2, but
nothing of tfkit.

                                                                             <- {} after the start; then, for each line of stdin:
    {"template": "...", "variables": {"messages": [...]}, "date": null} ->   <- {"text": "..."} or {"error": "...", "line": 3 or null}
"""

import contextlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_TEXT = 1 << 20  # the most bytes of one rendered conversation
MEMORY = 256 << 20  # bytes of address space, including Python's own 30 MB
SECONDS = 3  # of processor time for one line; template.py kills this process earlier, unless tfkit itself has died
NOBODY = 65534  # the user id of `nobody`
_today: datetime | None = None  # the date that the current request gives; None: the present time


class _Dict:
    """The value of `dict` in a template: it creates dictionaries without giving access to the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Call dict.fromkeys."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """The value of `namespace` in a template: it refuses attributes whose names begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no parameter `self`, since a template may use this name for a keyword
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name that begins with an underscore, such as {name!r}")


class _Generation(jinja2.ext.Extension):
    """The block `{% generation %}`, which marks an answer as a training target. Only its content is rendered."""

    tags = {"generation"}  # noqa: RUF012, an instance variable to jinja2

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Parse the block, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return (_today or datetime.now()).strftime(form)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Return plain JSON; jinja2's own filter would write `<` as \\u003c."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    """Build a sandbox as in transformers' utils/chat_template_utils.py (version 5). Without a loader, templates cannot include files."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now, "dict": _Dict(), "namespace": _Namespace}
    return environment


def _render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    pieces, size = [], 0
    for piece in template.generate(**variables):
        size += len(piece.encode(errors="surrogatepass"))
        if size > MAX_TEXT:
            raise jinja2.TemplateError(f"it writes more than {MAX_TEXT >> 20} MiB")
        pieces.append(piece)
    return "".join(pieces)


def _answer(compile_template: Callable[[str], jinja2.Template], request: dict[str, Any]) -> dict[str, Any]:
    """Return the rendered text, or the error and its line in the template."""
    global _today
    _today = datetime.fromisoformat(request["date"]) if request["date"] is not None else None
    try:
        return {"text": _render(compile_template(request["template"]), request["variables"])}
    except MemoryError:
        return {"error": f"it takes more than {MEMORY >> 20} MiB of memory", "line": None}
    except RecursionError:
        return {"error": "it calls itself without end, or is nested too deeply", "line": None}
    except jinja2.TemplateSyntaxError as error:
        return {"error": str(error.message), "line": error.lineno}
    except jinja2.TemplateError as error:
        return {"error": str(error), "line": _line(error)}
    except Exception as error:  # raised by an operation of the template on Python values
        return {"error": f"{type(error).__name__}: {error}", "line": _line(error)}


def _line(error: Exception) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return lines[-1] if lines else None


def _drop_privileges() -> None:
    """Limit this process: no file can be opened, no process started, and memory is bounded, as far as the system supports such limits."""
    os.chdir("/")
    if os.geteuid() == 0:  # root is exempt from most limits
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
    limits = {"RLIMIT_AS": MEMORY, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_NOFILE": 3}
    for name, limit in limits.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _limit_seconds() -> None:
    """Limit processor time, so that the kernel ends this process if the next line takes too long, even if tfkit has died."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + SECONDS + 1
    with contextlib.suppress(OSError, ValueError):  # the system has a lower limit, which cannot be raised
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _warm_up(environment: ImmutableSandboxedEnvironment) -> None:
    """Read the time zone, and let jinja2 and Python import the modules that they import on first use, while files can still be opened."""
    time.localtime()
    _answer(
        environment.from_string,
        {"template": "{{ [strftime_now('%d %b %Y')]|pprint }}{{ lipsum(1) }}{{ ''.a.b }}", "variables": {}, "date": None},
    )


def main() -> None:
    """Answer each line of stdin with a line on stdout, until stdin ends."""
    environment = _environment()
    _warm_up(environment)
    _drop_privileges()
    compile_template = lru_cache(maxsize=1)(environment.from_string)

    def reply(document: Any) -> None:
        sys.stdout.buffer.write(json.dumps(document).encode() + b"\n")
        sys.stdout.buffer.flush()

    reply({})
    for line in sys.stdin.buffer:
        _limit_seconds()
        reply(_answer(compile_template, json.loads(line)))


if __name__ == "__main__":
    main()
