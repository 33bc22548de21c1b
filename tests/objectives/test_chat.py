"""Supervised chat: which tokens are targets, transformers' loss for the same batch, packing, micro-batches, and rows that are refused."""

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_chats import FORMATS, KINDS, chat_codec
from tiny_examples import TWO_LAYERS, assert_judged, batch_of, model, opened, stored, whole_batch
from tiny_layouts import LLAMA_LAYOUT
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Backend
from transformers import AutoModelForCausalLM

from tfkit.data import Encoded, ExampleRows
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import BadRow, Row
from tfkit.errors import DataError
from tfkit.objectives.chat import Chat, conversation, fit_tokenizer
from tfkit.objectives.objective import IGNORED
from tfkit.recipe.schema.objective_sections import ChatSection
from tfkit.tokenizer.chat_formats import UnfitError

WORDS = ["the cat", "a dog", "sat on a mat", "ran", "red hat", "12", "é🙂 tree"]
LENGTH = 256
CONFIG = LLAMA_LAYOUT | TWO_LAYERS | {"vocab_size": 340, "context_length": LENGTH, "hidden_dim": 36, "num_kv_heads": 1}


def chat(name: str = "llama3", length: int = LENGTH, **section: Any) -> Chat:
    settings = ChatSection.model_validate({"kind": "chat", "format": name, **section})
    codec = chat_codec(name if name in KINDS else "llama3")
    return Chat(settings, fit_tokenizer(settings, codec), length, Path("tokenizer"))


def rows(count: int = 16, seed: int = 1) -> list[dict[str, Any]]:
    """Exchanges and conversations of unequal lengths."""
    random = np.random.default_rng(seed)

    def say() -> str:
        return " ".join(random.choice(WORDS, int(random.integers(1, 5))))

    found: list[dict[str, Any]] = []
    for number in range(count):
        turns = [{"role": role, "content": say()} for _ in range(int(random.integers(1, 3))) for role in ("user", "assistant")]
        found.append({"messages": turns} if number % 2 else {"instruction": say(), "output": say()})
    return found


def taken(given: dict[str, Any], named: dict[str, Any] | None = None) -> Row | BadRow:
    return Columns(ChatSection.roles, named or {}).take(Record(given, "rows.jsonl:1"))


def encoded(objective: Chat, given: dict[str, Any]) -> Any:
    return objective.encode([taken(given)])[0]


ENDS = {"chatml": "<|im_end|>", "llama2": " </s>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "mistral": "</s>"}
ENDS["chatml_tools"] = ENDS["chatml"]


@pytest.mark.parametrize("name", FORMATS)
def test_each_position_predicts_the_next_id_where_the_assistant_speaks(name: str) -> None:
    turns = [("user", "the cat"), ("assistant", "sat on"), ("user", "and the dog"), ("assistant", "ran")]
    objective = chat(name)
    found = encoded(objective, {"messages": [{"role": role, "content": content} for role, content in turns]})
    ids, labels = found.arrays["input_ids"], found.arrays["labels"]
    assert all(label in (IGNORED, following) for label, following in zip(labels, [*ids[1:], IGNORED], strict=True))
    spoken = [[*part] for is_target, part in groupby(labels, lambda label: label != IGNORED) if is_target]
    assert [objective.tokenizer.decode(part).lstrip() for part in spoken] == [f"sat on{ENDS[name]}", f"ran{ENDS[name]}"]
    assert found.length == len(ids) == len(labels)
    assert not found.truncated


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_last_answer_is_learned_where_that_is_asked_and_its_end_always(name: str) -> None:
    said = {"messages": [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 3, "abcdef", strict=True)]}
    plain, objective = chat(name), chat(name, train_on="last")
    everything, last = ({key: np.array(values) for key, values in encoded(one, said).arrays.items()} for one in (plain, objective))
    assert np.array_equal(everything["input_ids"], last["input_ids"]), "what is read is the same"
    targets, of_all = last["labels"], everything["labels"]
    ends = [place for place, label in enumerate(of_all) if label == objective.conversations.end_id]
    assert len(ends) == 3, "the end of every turn of the assistant is a target"
    assert np.array_equal(targets[ends[1] + 1 :], of_all[ends[1] + 1 :])
    assert (targets[: ends[1] + 1] == IGNORED).all()
    assert objective.references(taken(said), last) == ["f"]
    assert objective.prompt_ids(last) == plain.prompt_ids(everything)
    assert objective.fingerprint() != plain.fingerprint()


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLED = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
CALLED += [{"role": "tool", "content": "sat"}, {"role": "assistant", "content": "it sat"}]
# As Llama 3.1's: tools in the first turn of the user, a turn for each result.
WITH_TOOLS = """{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
    {%- if tools and loop.first %}{{- tools | tojson + '\n' }}{%- endif %}
    {%- for call in message.tool_calls or [] %}{{- call.function | tojson }}{%- endfor %}
    {{- message.content + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""


def by_template(template: str) -> Chat:
    settings = ChatSection.model_validate({"kind": "chat", "format": "template"})
    return Chat(settings, fit_tokenizer(settings, replace(chat_codec("llama3"), chat_template=template)), LENGTH, Path("tokenizer"))


@pytest.mark.parametrize("how", ["chatml_tools", "template"])
def test_calls_are_learned_and_neither_tools_nor_what_they_return(how: str) -> None:
    objective = by_template(WITH_TOOLS) if how == "template" else chat(how, 2048)
    found = encoded(objective, {"messages": CALLED, "tools": TOOLS})
    ids, labels = (np.array(found.arrays[name]) for name in ("input_ids", "labels"))
    said = objective.tokenizer.decode(ids.tolist())
    assert '"parameters"' in said
    assert "sat" in said
    end, call = objective.tokenizer.decode([objective.conversations.end_id]), '{"name": "add", "arguments": {"a": 1}}'
    wanted = f"<tool_call>\n{call}\n</tool_call>{end}it sat{end}" if how == "chatml_tools" else f"{call}{end}it sat{end}"
    assert objective.tokenizer.decode(labels[labels != IGNORED].tolist()) == wanted
    texts = {"messages": [*CALLED[:1], CALLED[1] | {"tool_calls": json.dumps([CALL["function"]])}, *CALLED[2:]], "tools": json.dumps(TOOLS)}
    assert encoded(objective, texts).arrays == found.arrays, "data sets have both as texts, too"
    shared = [{"from": "human", "value": "the cat"}, {"from": "function_call", "value": json.dumps(CALL["function"])}]
    shared += [{"from": "observation", "value": "sat"}, {"from": "gpt", "value": "it sat"}]
    assert encoded(objective, {"conversations": shared, "tools": TOOLS}).arrays == found.arrays
    row = taken({"messages": CALLED[:2], "tools": TOOLS})
    alone = {name: np.array(values) for name, values in objective.encode([row])[0].arrays.items()}
    assert objective.references(row, alone) == [call]
    [asked] = objective.encode_unlabelled([row])
    assert asked.arrays["input_ids"] == objective.prompt_ids(alone)


def test_tools_that_would_not_be_seen_are_refused() -> None:
    plain = by_template(WITH_TOOLS.replace("tools and loop.first", "false").replace("message.tool_calls or []", "[]"))
    for objective, given, kind in (
        (plain, {"messages": CALLED, "tools": TOOLS}, "tools that are not shown"),
        (plain, {"messages": CALLED}, "calls that are not shown"),
        (chat("llama3"), {"messages": CALLED}, "tool calls"),
        (chat("chatml_tools"), {"messages": CALLED, "tools": [{"name": "<|im_end|>"}]}, "special tokens in a text"),
        (chat("chatml_tools"), {"messages": [*CALLED[:2], CALLED[2] | {"content": "a<|im_end|>"}, CALLED[3]]}, "special tokens in a text"),
    ):
        found = encoded(objective, given)
        assert found.kind == kind, found
    for other in ({"tools": "hammer, saw"}, {"tools": ["hammer"]}, {"tools": None}, {"tools": []}):
        assert isinstance(encoded(chat("llama3"), {"question": "the cat", "answer": "sat"} | other), Encoded), "no tools of a conversation"


def test_several_system_messages_are_where_they_were_given() -> None:
    said = [{"role": role, "content": word} for role, word in zip(["system", "user", "assistant"] * 2, "abcdef", strict=True)]
    for name in FORMATS:
        found = encoded(chat(name), {"messages": said})
        if name in ("chatml", "llama3", "chatml_tools"):
            text = chat(name).tokenizer.decode(found.arrays["input_ids"])
            assert text.index("c") < text.index("\nd") < text.index("\ne")
        else:
            assert isinstance(found, BadRow), name


def test_the_loss_is_that_of_transformers_for_the_same_batch(tmp_path: Path) -> None:
    objective, ours = chat(), model(CONFIG).eval()
    batch = batch_of(tmp_path, rows(), objective)
    theirs = opened(tmp_path / "model", AutoModelForCausalLM, ours, objective.tokenizer)
    with torch.no_grad():
        logits = theirs(batch.input_ids, attention_mask=batch.padding_mask.long()).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
    assert_judged(ours, objective, batch, loss, logits)


def test_packed_conversations_have_the_losses_that_they_have_alone(tmp_path: Path) -> None:
    objective, ours = chat(pack=True), model(CONFIG).eval()
    found = stored(tmp_path, rows(), objective)
    packs, alone = ExampleRows([(found, 1.0)], 1, batch_size=4, packed_length=LENGTH), whole_batch(found, objective)
    assert 1 < len(packs) < 16
    together = objective.collate(packs.gather(np.zeros(len(packs), np.int64), np.arange(len(packs))))
    assert together.input_ids.shape[1] <= LENGTH
    assert together.tokens == alone.tokens == int(found.lengths.sum())
    assert objective.counts(together) == objective.counts(alone)
    with torch.no_grad():
        torch.testing.assert_close(objective.loss(ours, together), objective.loss(ours, alone), atol=1e-3, rtol=1e-6)


def test_long_conversations_lose_their_ends_and_are_counted(tmp_path: Path) -> None:
    given = [{"question": "12", "answer": row.get("output", "ran")} for row in rows()]
    whole, cut = (stored(tmp_path, given, chat("mistral", length)) for length in (LENGTH, 20))
    assert int(whole.lengths.max()) > 20 == int(cut.lengths.max())
    assert cut.truncated == int((np.asarray(whole.lengths) > 20).sum()) > 0
    labels, of_cut = ([one[number]["labels"] for number in range(len(one))] for one in (whole, cut))
    for every, first in zip(labels, of_cut, strict=True):
        assert first.tolist() in (every[:19].tolist(), [*every[:19], IGNORED])
    share = (np.concatenate(labels) != IGNORED).mean()
    assert chat("mistral", LENGTH).notes([whole])[0].startswith(f"{share:.1%} of the training tokens are targets")


SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
HALF_CALL = r'{"name": "f", "arguments": {"a": "\ud800"}}'
SYSTEM = {"role": "system", "content": "Rhyme."}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"messages": SAID}, SAID),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, SAID),
        ({"instruction": "Hi", "input": "", "output": "Yo"}, SAID),
        ({"instruction": "Say", "input": "Hi", "output": "Yo"}, [{"role": "user", "content": "Say\n\nHi"}, SAID[1]]),
        ({"instruction": "Hi", "input": None, "output": "Yo"}, SAID),
        ({"question": "Hi", "answer": "Yo"}, SAID),
        ({"prompt": "Hi", "completion": "Yo", "id": 3}, SAID),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, SAID[1]]}, SAID),
        ({"system": "Rhyme.", "question": "Hi", "answer": "Yo"}, [SYSTEM, *SAID]),
        ({"instruction": "Say", "context": "Hi", "response": "Yo", "category": "x"}, [{"role": "user", "content": "Say\n\nHi"}, SAID[1]]),
        ({"system_prompt": "Rhyme.", "question": "Hi", "response": "Yo"}, [SYSTEM, *SAID]),
        ({"question": "Hi", "answer": ["Yo", "Hey"]}, SAID),
        ({"messages": SAID, "system": "Rhyme."}, [SYSTEM, *SAID]),
        ({"messages": [SYSTEM, *SAID], "system": "Rhyme.\n"}, [SYSTEM, *SAID]),
        ({"messages": [SYSTEM, *SAID], "system_prompt": "Sing."}, [SYSTEM, *SAID]),
        ({"messages": [SYSTEM, *SAID], "system_prompt": ""}, [SYSTEM, *SAID]),
        ({"question": "Hi", "answer": ["", " \n", "Yo", "Hey"]}, SAID),
        ({"question": "Hi", "answer": "Yo", "context": {"title": ["a"], "sentences": [["b", "c"]]}}, SAID),
        ({"question": "Hi", "answer": "Yo", "context": [["title", ["b", "c"]]]}, SAID),
        ({"question": "Hi", "answer": "Yo", "context": []}, SAID),
    ],
)
def test_rows_of_either_shape_are_conversations(given: dict[str, Any], wanted: list[dict[str, str]]) -> None:
    assert conversation(taken(given)) == wanted


def test_a_column_that_the_recipe_names_is_read_or_the_row_refused() -> None:
    """A column that was only recognised may have another meaning, so it is ignored instead."""
    two = {"messages": [SYSTEM, *SAID], "system": "Sing."}
    row, same = taken(two, {"system": "system"}), taken(two | {"system": "Rhyme."}, {"system": "system"})
    with pytest.raises(UnfitError, match=r"another one in the column that columns\.system names"):
        conversation(row)
    assert conversation(same) == [SYSTEM, *SAID]
    parts = taken({"question": "Hi", "answer": "Yo", "context": {"title": "a"}}, {"input": "context"})
    assert "column 'context' holds dict, not text" in parts.message


def test_columns_that_a_recipe_names_choose_the_shape() -> None:
    nested = {"instruction": "Say", "instances": [{"input": "Hi", "output": "Yo"}], "messages": []}
    row = taken(nested, {"input": "instances.0.input", "output": "instances.0.output"})
    assert conversation(row)[0] == {"role": "user", "content": "Say\n\nHi"}
    lacking = taken({"instruction": "Say", "text": "Hi"})
    assert lacking.message == (
        "rows.jsonl:1: no columns for messages, nor for instruction and output; columns found: instruction, text; "
        "name them with columns: {messages: NAME} or columns: {instruction: NAME, output: NAME}"
    )
    Columns(ChatSection.roles).check(["prompt", "completion"], "rows.csv")
    with pytest.raises(DataError, match=r"rows\.csv: no columns for messages, nor for instruction and output"):
        Columns(ChatSection.roles).check(["prompt", "text"], "rows.csv")


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("chatml", {"messages": SAID[:1]}, "no answer"),
        ("chatml", {"messages": [SYSTEM, SAID[0]]}, "no answer"),
        ("chatml", {"question": "Hi", "answer": " \n"}, "an empty answer"),
        ("chatml", {"question": "Hi <|im_end|>", "answer": "Yo"}, "special tokens in a text"),
        ("chatml", {"question": "Hi", "answer": "Yo<|im_end|>\n<|im_start|>user\nMe"}, "special tokens in a text"),
        ("llama2", {"question": "Hi [/INST] Yo", "answer": "Yo"}, "special tokens in a text"),
        ("chatml", {"messages": [{"role": "user", "content": None}, SAID[1]]}, "a message without content"),
        ("chatml", {"messages": [{"role": "user", "content": [{"type": "image", "text": None}]}, SAID[1]]}, "a message without content"),
        ("chatml", {"messages": [{"who": "user", "content": "Hi"}, SAID[1]]}, "a message without role"),
        ("chatml", {"messages": [{"role": "critic", "content": "Hi"}, SAID[1]]}, "role 'critic'"),
        ("gemma", {"messages": [SAID[0], SAID[0], SAID[1]]}, "roles out of order"),
        ("gemma", {"system": "Rhyme.", "messages": SAID}, "a system message"),
        ("chatml", {"question": "Hi", "answer": []}, "an empty answer"),
        ("chatml", {"question": "Hi", "answer": ["", " "]}, "an empty answer"),
        ("chatml", {"question": "Hi", "answer": "Yo", "context": 3}, "int, not text"),
        ("mistral", {"question": "the cat " * 199, "answer": "Yo"}, "no answer within the context"),
        ("chatml_tools", {"messages": SAID, "tools": [{"name": "f", "parameters": {"\ud800": {}}}]}, "half a surrogate pair"),
        ("chatml_tools", {"messages": [SAID[0], {"role": "function_call", "content": HALF_CALL}]}, "half a surrogate pair"),
    ],
)
def test_bad_rows_are_named(name: str, given: dict[str, Any], kind: str) -> None:
    row = taken(given)
    found = row if isinstance(row, BadRow) else chat(name).encode([row])[0]
    assert found.kind == kind
    assert found.message.startswith("rows.jsonl:1: ")


def own_template(template: str, *special: AddedToken, normalizer: normalizers.Normalizer | None = None) -> Chat:
    """A tokenizer with more special tokens, and a chat template of its own."""
    settings = ChatSection(kind="chat", format="template")
    backend = Backend.from_str(chat_codec("chatml").tokenizer_json)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens([AddedToken("<|im_start|>", normalized=False), AddedToken("<|im_end|>", normalized=False), *special])
    codec = type(chat_codec("chatml")).from_json(backend.to_str(), chat_codec("chatml").settings, template)
    return Chat(settings, fit_tokenizer(settings, codec), LENGTH, Path("tokenizer"))


PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.tools | tojson if m.tools else '' }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("token", ['<"q">', "<\\s>", "<\n>", "<é>"])
def test_special_tokens_that_json_writes_otherwise_are_refused(token: str) -> None:
    objective = own_template(PLAIN, AddedToken(token, normalized=False))
    found = encoded(objective, {"question": f"Hi {token} there", "answer": "Yo"})
    assert found.message == f"rows.jsonl:1: message 1 has {token!r}, which would be read as a special token; correct the row"
    assert isinstance(encoded(objective, {"question": "Hi there", "answer": "Yo"}), Encoded)


@pytest.mark.parametrize("text", ["a <STOP> b", "a <ＳＴＯＰ> b", "a STOP b", "<Word>s", "a <word>"])
def test_special_tokens_are_looked_for_as_the_tokenizer_matches_them(text: str) -> None:
    """The tokenizer matches `<stop>` after normalization, and `<word>` only as a whole word."""
    refused = text not in ("a STOP b", "<Word>s")
    more = AddedToken("<stop>", normalized=True), AddedToken("<word>", normalized=True, single_word=True)
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    objective = own_template(PLAIN, *more, normalizer=normalizer)
    ids = {objective.tokenizer.backend.token_to_id(token.content) for token in more}
    assert bool(ids & set(objective.tokenizer.backend.encode(text).ids)) == refused
    assert isinstance(encoded(objective, {"question": text, "answer": "Yo"}), BadRow) == refused


def test_what_no_template_writes_may_hold_a_special_token() -> None:
    objective = own_template(PLAIN, AddedToken("content", normalized=False), AddedToken("assistant", normalized=False))
    plain = encoded(objective, {"messages": SAID})
    assert isinstance(plain, Encoded)
    tagged = [SAID[0] | {"id": "<|im_end|>", "more": {"<|im_end|>": [1, None]}}, SAID[1]]
    assert encoded(objective, {"messages": tagged}) == plain
    assert encoded(chat("chatml"), {"messages": tagged}) == encoded(chat("chatml"), {"messages": SAID})
    for tools in ([{"name": "<|im_end|>"}], {"<|im_end|>": 1}):
        found = encoded(objective, {"messages": [SAID[0] | {"tools": tools}, SAID[1]]})
        assert "message 1 has '<|im_end|>'" in found.message
    assert isinstance(encoded(objective, {"messages": [SAID[0] | {"tools": [{"name": "x"}]}, SAID[1]]}), Encoded)


def test_what_a_template_refuses_is_a_bad_row_and_the_rows_beside_it_are_not() -> None:
    settings = ChatSection(kind="chat", format="template")
    own = chat("gemma").tokenizer
    template = str(own.chat_template) + "{# another text than ours, so that it is rendered #}"
    codec = fit_tokenizer(settings, type(own).from_json(own.tokenizer_json, own.settings, template))
    objective = Chat(settings, codec, LENGTH, Path("tokenizer"))
    good, bad = taken({"messages": SAID}), taken({"messages": [SAID[0], SAID[0], SAID[1]]})
    first, second, third = objective.encode([good, bad, good])
    assert "rows.jsonl:1, failed: user and assistant must take turns" in second.message
    assert first == third == chat("gemma").encode([good])[0]


def test_prompts_during_training_are_asked_as_in_a_conversation() -> None:
    assert chat("gemma").prompts(["Hi"]) == (["<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"], True)


def test_of_several_answers_the_first_is_learned_and_the_rest_counted() -> None:
    several = (["Yo", "Hey"], ["", "Yo", "Hey"], "Yo")
    found, behind_an_empty_one, one = (encoded(chat("chatml"), {"question": "Hi", "answer": answer}) for answer in several)
    assert (found.arrays, found.unread, one.unread) == (one.arrays, 1, 0)
    assert behind_an_empty_one == found
