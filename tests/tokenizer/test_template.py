"""Chat templates render as transformers renders them, in a process that has no rights. What hostile ones do is in tests/faults."""

import json
import os
import signal
from datetime import date
from pathlib import Path

import pytest
from tiny_chats import TEMPLATES, chat_tokenizer
from tiny_runs import raising

from tfkit.errors import MachineError, ModelError
from tfkit.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from tfkit.tokenizer import template as template_module
from tfkit.tokenizer.conversations import TRAINING_DATE
from tfkit.tokenizer.template import ChatTemplate, encode_rendered, open_template

USER, ANSWER, SYSTEM = ({"role": role} for role in ("user", "assistant", "system"))
CONVERSATIONS = {
    "a question": [USER | {"content": "Was ist <b>2 & 2</b>? 🙂"}],
    "turns": [USER | {"content": "  a \n"}, ANSWER | {"content": "b\n"}, USER | {"content": ""}, ANSWER | {"content": "d"}],
    "a system": [SYSTEM | {"content": "Be brief."}, USER | {"content": "Hi"}],
    "special tokens": [USER | {"content": "<s>[INST] </s><|im_end|> {{ 7 * 7 }}"}],
    "a field that is null": [USER | {"content": "Hi", "tool_calls": None}],
}
# What templates find beside their own text.
PARTS = {
    "trim_blocks and lstrip_blocks": "{% if true %}\n  {% set a = 1 %}  \n x {%- if a %} y \n{% endif %}\n\n{% endif %}\nz\n",
    "loop controls": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "tojson": "{{ messages | tojson }} {{ {'b': '<é>', 'a': [1, none]} | tojson(indent=2, sort_keys=true) }} "
    "{{ 'é' | tojson(ensure_ascii=true) }} {{ [1, 2] | tojson(separators=(',', ':')) }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token is defined }}{{ pad_token is defined }}",
    "nothing was given": "{{ tools is none }}{{ documents is none }}{{ foo is defined }}{{ messages[0].name is defined }}",
    "dict and namespace": "{% set n = namespace(a=1, self=2) %}{% set n.a = n.a + n.self %}{{ n.a }}{{ dict(x=3).x }}"
    "{{ dict.fromkeys('ab', 0) }}",
    "generation": "{% generation %}{% set x = 5 %}{{ messages[0].content }}\n{% endgeneration %}\n|{{ x is defined }}",
    "today": "{{ strftime_now('%d %B %Y, %Z') }}",
    "python's methods": "{{ 'a,b'.split(',')[-1].upper() }}{{ messages[-1].get('content', '')[:3] }}{{ '%s-%03d' % ('a', 7) }}"
    "{{ '{:>4}'.format(7) }}",
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' tokenizer, to be given templates."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("chat")
    save_tokenizer(Tokenizer.from_json(*chat_tokenizer()), folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def ours(template: str) -> ChatTemplate:
    return open_template(Tokenizer.from_json(*chat_tokenizer(), template), Path("model"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(theirs, name):
    theirs.chat_template = TEMPLATES[name]
    tokenizer = Tokenizer.from_json(*chat_tokenizer(), TEMPLATES[name])
    compared = 0
    with open_template(tokenizer, Path("model")) as template:
        for messages in CONVERSATIONS.values():
            for begun in (False, True):
                try:
                    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=begun)
                except Exception as error:  # what a template refuses
                    with pytest.raises(ModelError, match=str(error)):
                        template.render(messages, add_generation_prompt=begun)
                    continue
                assert template.render(messages, add_generation_prompt=begun) == text
                ids = theirs.apply_chat_template(messages, add_generation_prompt=begun, return_dict=False)
                assert encode_rendered(tokenizer, [text]) == [ids]
                compared += 1
    assert compared >= 8


def test_a_training_has_the_same_day_for_ever() -> None:
    tokenizer = Tokenizer.from_json(*chat_tokenizer(), "{{ strftime_now('%d %b %Y') }}")
    with open_template(tokenizer, Path("model"), TRAINING_DATE) as template:
        assert template.render([]) == "26 Jul 2024"


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_the_names_that_templates_read(name: str) -> None:
    with ours("{{ messages[0].reasoning_content }}, {{ messages[0].thinking }}, {{ messages[1] | tojson }}") as template:
        assert template.render([ANSWER | {"content": "4", name: "2 + 2"}, USER]) == '2 + 2, 2 + 2, {"role": "user"}'


@pytest.mark.parametrize("name", PARTS)
def test_what_a_template_finds(theirs, name):
    theirs.chat_template = PARTS[name]
    with ours(PARTS[name]) as template:
        for messages in CONVERSATIONS.values():
            assert template.render(messages) == theirs.apply_chat_template(messages, tokenize=False)


def test_a_message_may_have_values_that_json_lacks():
    with ours("{{ messages[0].content }} {{ messages[0].day }}") as template:
        assert template.render([{"content": "a", "day": date(2024, 5, 1)}]) == "a 2024-05-01"


def test_one_process_for_many_conversations_and_another_after_a_failure():
    with ours("{{ messages[0].content + messages[0].get('more', '') }}{{ messages[0].bad.worse.worst if messages[0].bad }}") as template:
        assert template.render([{"content": "1"}]) == "1"
        pid = template._worker.pid
        assert [template.render([{"content": str(i)}]) for i in range(20)] == list(map(str, range(20)))
        with pytest.raises(ModelError, match="no attribute 'worse'"):
            template.render([{"content": "", "bad": "x"}])
        assert template._worker.pid == pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelError, match="crashes the process"):
            template.render([{"content": "1"}])
        assert template.render([{"content": "2"}]) == "2"
        assert template._worker.pid != pid


def test_the_process_has_no_rights():
    """The means to do harm, read off the process itself."""
    limits = Path("/proc/self/limits")
    if not limits.exists():
        pytest.skip("Linux")
    with ours("x") as template:
        template.render([])
        process = Path(f"/proc/{template._worker.pid}")
        found = {line[:26].strip(): line[26:].split()[:2] for line in (process / "limits").read_text().splitlines()}
        assert found["Max file size"] == found["Max processes"] == found["Max core file size"] == ["0", "0"]
        assert found["Max open files"] == ["3", "3"]
        assert int(found["Max address space"][1]) <= 256 << 20
        assert int(found["Max cpu time"][0]) <= 5
        if os.geteuid() == 0:
            status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
            assert set(status["Uid"].split()) == {"65534"}
        else:
            assert sorted(path.name for path in (process / "fd").iterdir()) == ["0", "1", "2"]
            assert (process / "environ").read_bytes() in (b"", f"TZ={os.environ.get('TZ')}\0".encode())


def test_an_error_names_the_file_and_the_line(tmp_path):
    text, settings = chat_tokenizer()
    for where, kept in [("chat_template.jinja", settings), ("tokenizer_config.json", settings | {"chat_template": "a\n\n{% for %}"})]:
        folder = tmp_path / where
        folder.mkdir()
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")
        if "jinja" in where:
            (folder / where).write_text("a\n\n{% for %}", encoding="utf-8")
        with (
            open_template(load_tokenizer(folder), folder) as template,
            pytest.raises(ModelError, match=rf"{where}:3: the chat template, given x\.jsonl:7, failed: Expected an expression"),
        ):
            template.render([], place="x.jsonl:7")


def test_an_error_cannot_paint_the_terminal():
    with ours("{{ raise_exception('\x1b[2J' + 'é' + 'x' * 1000000) }}") as template, pytest.raises(ModelError) as caught:
        template.render([])
    assert "failed: \\x1b[2Jéxxx" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("reply", [b"[]", b"{", b'"text"', b"[" * 100_000, b'{"text": 3, "line": "x"}'])
def test_a_process_that_was_taken_over(tmp_path, monkeypatch, reply):
    """It may answer anything: that is an error or a text."""
    worker = tmp_path / "worker.py"
    worker.write_text(f"import sys\nprint('{{}}', flush=True)\nsys.stdin.readline()\nprint({reply.decode()!r}, flush=True)\n")
    monkeypatch.setattr(template_module, "_WORKER", worker)
    with ours("x") as template:
        if reply.startswith(b'{"text"'):
            assert template.render([]) == "3"
        else:
            with pytest.raises(ModelError, match="crashes"):
                template.render([])


@pytest.mark.slow
def test_an_endless_template_ends_when_nobody_waits_for_it():
    """tfkit itself was killed meanwhile: the kernel counts the processor's seconds."""
    with ours("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}") as template:
        template._start()
        worker = template._worker
        worker.stdin.write(json.dumps({"template": template._text, "variables": {}, "date": None}).encode() + b"\n")
        worker.stdin.flush()
        assert worker.wait(60) == -signal.SIGXCPU


def test_no_template(tmp_path):
    with pytest.raises(ModelError, match=r"this checkpoint has no chat template \(chat_template\.jinja"):
        open_template(Tokenizer.from_json(*chat_tokenizer()), tmp_path)


def test_a_machine_without_room_for_a_process(monkeypatch):
    monkeypatch.setattr(template_module.subprocess, "Popen", raising(BlockingIOError("no more processes")))
    with ours("x") as template, pytest.raises(MachineError, match="did not start"):
        template.render([])
