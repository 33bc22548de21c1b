"""The ids of prompts: texts are encoded as they are, messages by the chat template; which tokens end a response; rows that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_chats import chat_codec
from tiny_files import write_rows
from tiny_rollouts import codec, policy

from tfkit.data import Encoded
from tfkit.data.columns.rows import BadRow
from tfkit.data.sources.open_sources import open_source
from tfkit.errors import ModelError
from tfkit.objectives import chat
from tfkit.objectives.context import ModelContext
from tfkit.objectives.conversation_texts import bare_text
from tfkit.objectives.grpo import GRPO
from tfkit.objectives.rollouts import stored_text
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_sections import ChatSection
from tfkit.recipe.schema.rollout_sections import GRPOSection
from tfkit.tokenizer import Tokenizer

USER = {"role": "user", "content": "the cat"}
TALKER = chat.fit_tokenizer(ChatSection(kind="chat", format="chatml"), chat_codec("chatml"))


def objective(folder: Path, tokenizer: Tokenizer, **fields: Any) -> GRPO:
    section = GRPOSection.model_validate({"kind": "grpo", "rules": [{"kind": "number"}], "max_new_tokens": 4, **fields})
    model = policy(context_length=64 if tokenizer.size < 10 else 256, vocab_size=tokenizer.size)
    return GRPO(section, ModelContext(model.config, tokenizer, [], 1, folder))


def encoded(folder: Path, made: GRPO, *rows: dict[str, Any]) -> list[Encoded | BadRow]:
    path = write_rows(folder / "rows.jsonl", rows)
    return made.encode(list(open_source(SourceSection(path=str(path)), "all", None, roles=made.section.roles).rows()))


def ids(one: Encoded | BadRow) -> list[int]:
    return list(one.arrays["input_ids"])


def test_messages_go_through_the_template_up_to_where_the_answer_begins(tmp_path: Path) -> None:
    made = objective(tmp_path, TALKER)
    answered = {"messages": [USER, {"role": "assistant", "content": "42"}], "answer": 42}
    shared = {"conversations": [{"from": "human", "value": "the cat"}, {"from": "gpt", "value": "42"}], "answer": "42"}
    rows = encoded(tmp_path, made, {"prompt": [USER], "answer": [42, "x"]}, answered, shared, {"prompt": "the cat", "answer": 42.0})
    assert TALKER.decode(ids(rows[0])).endswith("the cat<|im_end|>\n<|im_start|>assistant\n")
    assert ids(rows[1]) == ids(rows[2]) == ids(rows[0])
    assert TALKER.decode(ids(rows[3]), skip_special_tokens=True) == "the cat"
    assert [json.loads(stored_text(one.example(), "answers")) for one in rows] == [["42", "x"], *[["42"]] * 3]
    assert stored_text(rows[0].example(), "prompt") == "the cat"
    parts, called = [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}], [{"function": {"name": "f", "arguments": {}}}]
    in_parts = encoded(tmp_path, made, {"prompt": [{**USER, "content": parts}], "answer": 42})[0]
    assert (ids(in_parts), stored_text(in_parts.example(), "prompt")) == (ids(rows[0]), "the cat")
    assert bare_text([{"role": "assistant", "content": None, "tool_calls": called}]) == ""
    turn = objective(tmp_path, TALKER, chat=True)
    assert ids(encoded(tmp_path, turn, {"prompt": "the cat", "answer": 1})[0]) == ids(rows[0])
    assert turn.fingerprint() != made.fingerprint()
    assert {*made.rollouts.end_ids} == {TALKER.eos_id, TALKER.backend.token_to_id("<|im_end|>")}


def test_an_answer_at_the_end_of_a_dialogue_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    asked = "\n\nHuman: 40 + 2?\n\nAssistant: 41\n\nHuman: no"
    rows = [{"prompt": f"{asked}{end}", "answer": 42} for end in ("\n\nAssistant:", "\n\nAssistant: 42", "")]
    for formatted in (False, True):
        open_end, answered, question = encoded(tmp_path, objective(tmp_path, TALKER, chat=formatted), *rows)
        assert ids(answered) == ids(open_end)
        assert stored_text(answered.example(), "prompt") == f"{asked}\n\nAssistant:"
        assert (ids(question) == ids(open_end)) == formatted, "messages are those of the template, and a text is as it is"


def test_a_policy_without_a_template_or_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"rows.jsonl:1: .* messages, but .* no chat template"):
        encoded(tmp_path, objective(tmp_path, codec()), {"prompt": [USER], "answer": 1})
    with pytest.raises(ModelError, match="no token that ends a text"):
        objective(tmp_path, Tokenizer.from_json(codec().tokenizer_json, {}))


def test_rows_that_cannot_be_used_are_bad_ones(tmp_path: Path) -> None:
    rows = [{"prompt": text, "answer": answer} for text, answer in (("abc", 1), ("abcab", 1), ("ab", " "), ("", 1))]
    good, *bad = encoded(tmp_path, objective(tmp_path, codec(), max_new_tokens=60), *rows)
    assert isinstance(good, Encoded)
    assert [one.kind for one in bad] == ["no room for a response", "no answer", "an empty prompt"]
    free = objective(tmp_path, codec(), rules=[{"kind": "valid_json"}])
    assert isinstance(encoded(tmp_path, free, {"prompt": "ab"})[0], Encoded)
