"""The chat formats: what they write, that their templates write the same in transformers, and what they refuse."""

import datetime
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chats import FORMATS, TEMPLATES, contents, conversations
from transformers.utils.chat_template_utils import render_jinja_template

from tfkit.tokenizer.chat_formats import FORMATS as OURS
from tfkit.tokenizer.chat_formats import Ends, Message, UnfitError, join_segments
from tfkit.tokenizer.tool_calls import read_calls, read_tools

ENDS = Ends("<s>", "</s>")
EXCHANGES = [("user", "Hi there"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "See you")]
SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

# Written by hand from the sources of each family; the targets are in brackets.
GOLDEN = {
    (
        "chatml",
        None,
    ): f"<|im_start|>system\n{SMOL}<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n"
    "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦See you<|im_end|>⟧\n",
    ("chatml", "Rhyme."): "<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    "⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦See you<|im_end|>⟧\n",
    ("llama2", None): "<s>[INST] Hi there [/INST]⟦ Hello! </s>⟧<s>[INST] Bye [/INST]⟦ See you </s>⟧",
    ("llama2", "Rhyme."): "<s>[INST] <<SYS>>\nRhyme.\n<</SYS>>\n\nHi there [/INST]⟦ Hello! </s>⟧<s>[INST] Bye [/INST]⟦ See you </s>⟧",
    ("llama3", None): "<s><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    "⟦Hello!<|eot_id|>⟧<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    "⟦See you<|eot_id|>⟧",
    ("gemma", None): "<s><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n⟦Hello!<end_of_turn>⟧\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n⟦See you<end_of_turn>⟧\n",
    ("mistral", None): "<s>[INST] Hi there [/INST]⟦ Hello!</s>⟧[INST] Bye [/INST]⟦ See you</s>⟧",
}


def bracketed(name: str, messages: list[tuple[str, str]], system: str | None = None) -> str:
    segments = OURS[name].segments([Message(*message) for message in messages], ENDS, system)
    return "".join(f"⟦{one.text}⟧" if one.is_target else one.text for one in segments)


def rendered(template: str, messages: list[dict[str, str]], prompt: bool = False) -> str:
    """By transformers itself."""
    (text,), _ = render_jinja_template(
        [messages], chat_template=template, bos_token=ENDS.bos, eos_token=ENDS.eos, add_generation_prompt=prompt
    )
    return str(text)


def ours(name: str, messages: list[dict[str, str]], system: str | None = None) -> tuple[str, list[tuple[int, int]]]:
    return join_segments(OURS[name].segments([Message(one["role"], one["content"]) for one in messages], ENDS, system))


@pytest.mark.parametrize(("name", "system"), GOLDEN)
def test_texts_and_targets_written_by_hand(name: str, system: str | None) -> None:
    assert bracketed(name, EXCHANGES, system) == GOLDEN[name, system]
    if system is not None:
        assert bracketed(name, [("system", system), *EXCHANGES], "another") == GOLDEN[name, system]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(data=st.data())
def test_the_template_of_a_checkpoint_writes_the_same_in_transformers(name: str, data: st.DataObject) -> None:
    messages = data.draw(conversations(system=OURS[name].has_system))
    system = data.draw(st.none() | contents) if OURS[name].has_system else None
    template = OURS[name].jinja(system)
    text, spans = ours(name, messages, system)
    assert rendered(template, messages) == text
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    assert len(spans) == len(answers)
    for number, (begin, end) in zip(answers, spans, strict=True):
        assert rendered(template, messages[:number], prompt=True) == text[:begin]  # what an answer is asked for with
        assert rendered(template, messages[: number + 1]).rstrip("\n") == text[:end]


TOOLS = read_tools(
    [
        {"type": "function", "function": {"name": "add", "description": "Adds <é>.", "parameters": {"type": "object", "properties": {}}}},
        {"name": "now"},
    ]
)
CALLED: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": "Let me see.", "tool_calls": read_calls([{"name": "add", "arguments": '{"a": 1}'}, {"name": "now"}])},
    {"role": "tool", "content": "3"},
    {"role": "tool", "content": "noon"},
    {"role": "assistant", "content": "3"},
    {"role": "system", "content": "Be long."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "", "tool_calls": read_calls({"function": {"name": "now", "arguments": {}}})},
]


def turns_of(messages: list[dict[str, Any]]) -> list[Message]:
    return [Message(one["role"], one["content"], tuple(call["function"] for call in one.get("tool_calls", ()))) for one in messages]


@pytest.mark.parametrize("first", [0, 1], ids=["with a system message", "without one"])
@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "no tools"])
@pytest.mark.parametrize("system", [None, "Rhyme."])
def test_tools_and_calls_of_them_are_written_as_by_the_template(first: int, tools: list[dict[str, Any]], system: str | None) -> None:
    form, messages = OURS["chatml_tools"], CALLED[first:]
    text, spans = join_segments(form.segments(turns_of(messages), ENDS, system, tools))
    (theirs,), _ = render_jinja_template(
        [messages], tools=tools or None, chat_template=form.jinja(system), bos_token=ENDS.bos, eos_token=ENDS.eos
    )
    assert theirs == text
    assert [text[begin:end] for begin, end in spans] == [
        'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>',
        "3<|im_end|>",
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>',
    ]
    results = "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\nnoon\n</tool_response><|im_end|>\n"
    assert results in text
    assert ('"description": "Adds <é>."' in text) == bool(tools)
    assert "<|im_start|>system\nBe long.<|im_end|>\n" in text, "a second system message is where it was given"


@pytest.mark.parametrize("name", [name for name, form in OURS.items() if not form.has_tools])
def test_a_format_without_tools_says_so(name: str) -> None:
    said = [{"role": "user", "content": "1 + 2?"}]
    for messages, tools, kind in (
        ([*said, *CALLED[2:3]], [], "tool calls"),
        ([*said, *CALLED[3:4]], [], "role 'tool'"),
        ([*said, {"role": "assistant", "content": "3"}], TOOLS, "tools"),
    ):
        with pytest.raises(UnfitError, match="chatml_tools can, and the templates of some checkpoints") as caught:
            OURS[name].segments(turns_of(messages), ENDS, None, tools)
        assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("value", "kind"),
    [("[", "tools that are none"), ([1], "tools that are none"), ([{"function": {}}], "a tool without a name"), ([{}], "a tool without")],
)
def test_tools_that_are_none(value: Any, kind: str) -> None:
    with pytest.raises(UnfitError) as caught:
        read_tools(value)
    assert caught.value.kind.startswith(kind)
    with pytest.raises(UnfitError, match="are no JSON object"):
        read_calls([{"name": "add", "arguments": "1, 2"}])


def test_tools_are_json_values() -> None:
    """Parquet has further types."""
    [tool] = read_tools([{"name": "f", "parameters": {"default": datetime.date(2024, 5, 1)}}])
    [call] = read_calls([{"name": "f", "arguments": {"day": datetime.date(2024, 5, 1)}}])
    assert call["function"]["arguments"] == {"day": "2024-05-01"}
    assert tool == {"type": "function", "function": {"name": "f", "parameters": {"default": "2024-05-01"}}}


def test_every_format_has_a_tokenizer_in_these_tests() -> None:
    assert set(FORMATS) == set(OURS)


def test_any_text_may_be_the_system_message_of_a_template() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    for system in ("é🙂", "\"'\\n\n\r\t", "{{ x }} {% endif %} {# #}", "\u2028\x00\x7f"):
        assert rendered(OURS["chatml"].jinja(system), messages) == ours("chatml", messages, system)[0]


# As Meta published them with its models, line ends put in.
PUBLISHED = {
    "chatml": TEMPLATES["smollm2"],
    "gemma": TEMPLATES["gemma"],
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}
{%- set system_message = messages[0]['content'] %}
{%- else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{%- for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if loop.index0 == 0 and system_message != false %}
{%- set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
{%- else %}{% set content = message['content'] %}{% endif %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": """{% set loop_messages = messages %}{% for message in loop_messages %}
{%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}
{%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
}


@pytest.mark.parametrize("name", PUBLISHED)
@settings(max_examples=40)
@given(data=st.data())
def test_published_templates_write_the_same(name: str, data: st.DataObject) -> None:
    messages = data.draw(conversations(system=OURS[name].has_system))
    assert rendered(PUBLISHED[name], messages) == ours(name, messages)[0]


@pytest.mark.parametrize(
    ("name", "messages", "kind"),
    [
        ("chatml", [("user", "Hi"), ("tool", "1"), ("assistant", "Yo")], "role 'tool'"),
        ("llama2", [("assistant", "Hi"), ("user", "Yo")], "roles out of order"),
        ("llama2", [("user", "Hi"), ("system", "Rhyme."), ("assistant", "Yo")], "roles out of order"),
        ("gemma", [("system", "Rhyme."), *EXCHANGES], "a system message"),
        ("gemma", [("user", "Hi"), ("user", "Hi"), ("assistant", "Yo")], "roles out of order"),
        ("mistral", [("system", "Rhyme."), *EXCHANGES], "a system message"),
    ],
)
def test_what_a_format_cannot_say_is_refused(name: str, messages: list[tuple[str, str]], kind: str) -> None:
    with pytest.raises(UnfitError) as caught:
        bracketed(name, messages)
    assert caught.value.kind == kind
    if kind != "role 'tool'":  # the template refuses it too
        with pytest.raises(Exception, match=re.compile("take turns|no system")):
            rendered(OURS[name].jinja(), [{"role": role, "content": content} for role, content in messages])
