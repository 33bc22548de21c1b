"""A chat template is a stranger's program: whatever it tries, generate ends with 4 in a few seconds, and nothing was touched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_chats import write_chat_checkpoint
from tiny_files import read_json
from tiny_runs import Done, run_here

import tfkit.cli.generate
import tfkit.generation.complete  # noqa: F401
from tfkit.tokenizer.template import _WORKER as WORKER

SECONDS = 10  # of processors, of tfkit and the process that renders: 2 are promised to a template, and each needs some to start
CANARY = "canary"
_OPEN = f"open('{CANARY}', 'w').write('x')"
_OS = f".popen('touch {CANARY}').read()"

ESCAPES = {
    "mro": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ (''|attr('__class__')|attr('__mro__'))[1] }}",
    "subscript": "{{ ''['__class__']['__mro__'] }}",
    "map attribute": "{{ ['']|map(attribute='__class__.__mro__')|first|list }}",
    "globals of a function": "{{ raise_exception.__globals__['os'].system('touch " + CANARY + "') }}",
    "globals of jinja": "{{ lipsum.__globals__.os" + _OS + " }}",
    "cycler": "{{ cycler.__init__.__globals__.os" + _OS + " }}",
    "joiner": "{{ joiner.__init__.__globals__['__builtins__']['open']('" + CANARY + "', 'w') }}",
    "self": "{{ self.__init__.__globals__.__builtins__." + _OPEN + " }}",
    "context": "{{ self._TemplateReference__context.environment.globals.clear() }}",
    "dict": "{{ dict.__base__.__subclasses__() }}",
    "dict's function": "{{ dict.fromkeys.__func__.__globals__.os" + _OS + " }}",
    "namespace": "{{ namespace.__init__.__globals__.os" + _OS + " }}",
    "namespace's names": "{{ namespace(__class__=1) }}",
    "namespace's names, set": "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}{{ m.__call__.__globals__.x }}",
    "caller": "{% macro m() %}{{ caller.__init__.__globals__.x }}{% endmacro %}{% call m() %}{% endcall %}",
    "generator": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "loop": "{% for x in [1] %}{{ loop.__init__.__globals__.os" + _OS + " }}{% endfor %}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_map": "{{ '{a.__class__.__init__.__globals__}'.format_map({'a': cycler}) }}",
    "format through a variable": "{% set f = '{0.__class__.__mro__}'.format %}{{ f('') }}",
    "format filter": "{{ '%s'|format(''.__class__.__mro__) }}",
    "list append": "{{ messages.append(1) }}",
    "dict update": "{{ messages[0].update(role='system') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "from": "{% from 'os' import system %}",
    "extends": "{% extends 'base' %}",
    "python": "{{ __import__('os')" + _OS + " }}",
    "open": "{{ " + _OPEN + " }}",
}
ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ (9 ** (9 ** 9)) % 3 }}",
}
GREEDY = {
    "repetition": "{{ 'a' * 1000000000 }}",
    "repetition of what is said": "{{ messages[0].content * 1000000000 }}",
    "list": "{{ ([0] * 1000000000)|length }}",
    "center": "{{ 'a'|center(1000000000) }}",
    "indent": "{{ ('a\n' * 100000)|indent(1000000) }}",
    "join": "{{ range(10000)|join('a' * 100000) }}",
    "replace": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "format": "{{ '{:1000000000d}'.format(1) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "tojson": "{{ [1]|tojson(indent=1000000000) }}",
    "doubling": "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "many small pieces": "{% for i in range(99999) %}{{ messages }}{% endfor %}",
    "range": "{{ range(1000000000)|list }}",
    "lipsum": "{{ lipsum(n=10000) }}",
}
WRONG = {
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two that call each other": "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for x in [messages] recursive %}{{ loop([x]) }}{% endfor %}",
    "nested too deeply": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    "nested lists": "{{" + "[" * 200_000 + "}}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "minus signs": "{{" + "-" * 200_000 + "1 }}",
    "syntax": "{% for message in %}",
    "an open block": "{% if messages %}",
    "unknown filter": "{{ messages|no_such_filter }}",
    "unknown tag": "{% no_such_tag %}",
    "a role that is missing": "{{ messages[0].speaker.upper() }}",
    "a type error": "{{ messages + 1 }}",
    "division by zero": "{{ 1 / 0 }}",
    "it refuses": "{{ raise_exception('only odd turns') }}",
    "half a character": r"{{ '\ud83d' }}",
    "ten megabytes": "x" * 10_000_000,
    "ten megabytes of code": "{{ 1 }}" * 1_430_000,
    "just below the limit": "{{ a }}" * 149_000,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_checkpoint(tmp_path_factory.mktemp("template") / "model", "{{ messages[0].content }}")


def answer(folder: Path, where: Path, template: str | None = None) -> Done:
    """A prompt put to the checkpoint, with this template, in an empty folder."""
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    words = ["generate", "--from", folder, "--chat", "--prompt", "Hello", "--max-new-tokens", "3", "--threads", "1"]
    return run_here([*words, "carbon.enabled=false"], where)


HOSTILE = ESCAPES | ENDLESS | GREEDY | WRONG


@pytest.mark.sampled(13)
@pytest.mark.parametrize("name", HOSTILE)
def test_f35_a_hostile_template(folder: Path, tmp_path: Path, name: str) -> None:
    done = answer(folder, tmp_path, HOSTILE[name]).refuses(4, "chat_template.jinja", "; ")  # the place, and before reason and remedy
    assert len(done.err) < 1000
    assert done.processor_seconds < SECONDS
    assert list(tmp_path.iterdir()) == []


def test_f35_the_honest_one_is_rendered(folder: Path, tmp_path: Path) -> None:
    """The reference for the others."""
    answer(folder, tmp_path, "{{ messages[0].content }}").exits(0)


def test_f35_a_long_template_in_the_configuration(folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("chat_template.jinja")))
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(read_json(path) | {"chat_template": "{{ 1 }}" * 200_000}), encoding="utf-8")
    answer(model, tmp_path).refuses(4, "tokenizer_config.json")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not hold all of these limits")
@pytest.mark.parametrize(
    "harm", ["open('canary', 'w')", "open('/etc/passwd')", "os.fork()", "os.system('true')", "socket.socket()", "bytearray(1 << 30)"]
)
def test_f35_what_a_template_could_do_outside_the_sandbox(tmp_path: Path, harm: str) -> None:
    """The process that renders, and in it the code that a template might get to run if the sandbox had a hole."""
    program = f"""
import os, runpy, socket, sys
worker = runpy.run_path({str(WORKER)!r})
worker["_drop_privileges"]()
os.write(1, b"begun ")
try:
    done = {harm}
except (OSError, MemoryError):
    done = 1
os.write(1, b"harmless" if done else b"harm")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "begun harmless"
    assert list(tmp_path.iterdir()) == []
