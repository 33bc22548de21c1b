"""Rows of preferences: every form, what is dropped and counted, what is refused, and that whole prompts are held out together."""

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_chats import chat_codec
from tiny_examples import tokenizer
from tiny_files import write_rows

from tfkit.data import ExampleBatch, ExampleSet, example_set
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import Row
from tfkit.data.sources.open_sources import Source, training_sources, validation_sources
from tfkit.errors import DataError, ModelError
from tfkit.objectives.conversation_texts import ConversationTexts, PromptCompletion
from tfkit.objectives.objective import IGNORED
from tfkit.objectives.preference_rows import PreferenceEncoder, read_preference
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.recipe.schema.objective_sections import ChatSection
from tfkit.recipe.schema.preference_sections import PREFERENCE_ROLES, RewardSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.conversations import end_ids

Section = dict[str, Any]


def user(text: str) -> Section:
    return {"role": "user", "content": text}


def answer(text: str) -> Section:
    return {"role": "assistant", "content": text}


def data(folder: Path, rows: list[Section], source: Section | None = None, **fields: Any) -> DataSection:
    path = write_rows(folder / "rows.jsonl", rows)
    return DataSection.model_validate({"train": [{"path": str(path), **(source or {})}], **fields})


def read(folder: Path, *rows: Section, **source: Any) -> list[Any]:
    """Return the preferences of rows that are read from a file; `source`: fields of its section."""
    [found] = training_sources(data(folder, [*rows], source), PREFERENCE_ROLES)
    return [read_preference(row) for row in found.rows()]


def sources(section: DataSection) -> list[Source]:
    """Return what is trained on, and what is held out."""
    return [*training_sources(section, PREFERENCE_ROLES), *validation_sources(section, PREFERENCE_ROLES)]


def encoder(codec: Tokenizer | None = None, length: int = 64, *, chat: bool = False) -> PreferenceEncoder:
    return PreferenceEncoder(ConversationTexts(codec or tokenizer("byte_bpe"), Path("base"), chat=chat), length)


def stored(folder: Path, made: PreferenceEncoder, *rows: Section) -> ExampleSet:
    [source] = training_sources(data(folder, [*rows]), PREFERENCE_ROLES)
    made_encoder: Any = type("Made", (), {"ids": ("input_ids",), "encode": made.encode, "fingerprint": made.fingerprint})
    return example_set(source, made_encoder, "error")


HUMAN = "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: why\n\nAssistant:"
MESSAGES = [user("hi"), answer("yes"), user("why")]
A, B = answer("a"), answer("b")
VOTE = {"prompt": "is it", "response_a": "yes", "response_b": "no"}


@pytest.mark.parametrize(
    ("row", "prompt", "completions", "ranks"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "p", ["a", "b"], [0, 1]),
        ({"question": "p", "chosen": "a", "rejected": "b"}, "p", ["a", "b"], [0, 1]),
        ({"Instruction": "p", "response_chosen": "a", "response_rejected": "b"}, "p", ["a", "b"], [0, 1]),
        ({"chosen": f"{HUMAN} a", "rejected": f"{HUMAN} and b"}, HUMAN, [" a", " and b"], [0, 1]),
        ({"chosen": "a", "rejected": "b"}, "", ["a", "b"], [0, 1]),
        ({"chosen": [*MESSAGES, A], "rejected": [*MESSAGES, B]}, MESSAGES, [[A], [B]], [0, 1]),
        ({"prompt": "why", "chosen": [*MESSAGES, A], "rejected": [*MESSAGES, B]}, MESSAGES, [[A], [B]], [0, 1]),
        ({"prompt": MESSAGES, "chosen": A, "rejected": [B]}, MESSAGES, [[A], [B]], [0, 1]),
        ({"conversations": MESSAGES, "chosen": A, "rejected": B}, MESSAGES, [[A], [B]], [0, 1]),
        ({"prompt": "p", "completions": ["c", "a", "b"], "ranks": [3, 1, 2]}, "p", ["a", "b", "c"], [0, 1, 2]),
        ({"prompt": "p", "completions": ["c", "a", "b"], "scores": [0.5, "2", 0.5]}, "p", ["a", "c", "b"], [0, 1, 1]),
        ({"prompt": "p", "completions": ["b", "a", "b"], "ranks": [2, 1, 3]}, "p", ["a", "b"], [0, 1]),
    ],
)
def test_every_form_is_read_from_best_to_worst(tmp_path: Path, row: Section, prompt: Any, completions: list[Any], ranks: list[int]) -> None:
    assert read(tmp_path, row) == [(prompt, completions, ranks)]


def test_rows_of_one_prompt_cannot_be_held_out_apart_and_a_blank_prompt_is_none(tmp_path: Path) -> None:
    def parts(prompt: str) -> list[Source]:
        rows = [{"prompt": prompt, "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(40)]
        return sorted(sources(data(tmp_path, rows, validation=0.3)), key=lambda source: len([*source.rows()]))

    assert all([*source.rows()] for source in parts(""))
    made: Any = encoder()
    empty, whole = parts("p")
    assert len([*whole.rows()]) == 40
    with pytest.raises(DataError, match="no rows here: all rows have the same input, and the rows of one input are held out"):
        example_set(empty, made, "error")


def test_good_and_bad_completions_of_a_prompt_are_joined_wherever_they_are(tmp_path: Path) -> None:
    rows = [("p", "a", False), ("q", "b", True), ("p", "c", True), ("p", "d", "0")]
    first, second = read(tmp_path, *(dict(zip(("prompt", "completion", "label"), row, strict=True)) for row in rows))
    assert first == ("p", ["c", "a", "d"], [0, 1, 1])
    assert (second.dropped, second.kind) == (True, "only good completions of a prompt")
    whole = [{"messages": [*MESSAGES, answer(said)], "label": said == "a"} for said in ("b", "a")]  # the end is the completion
    assert read(tmp_path, *whole) == [(MESSAGES, [[A], [B]], [0, 1])]
    [wrong] = read(tmp_path, {"prompt": "p", "completion": "a", "label": "maybe"})
    assert wrong.message.endswith("rows.jsonl:1: the label 'maybe' of a completion is neither true nor false, good nor bad; correct it")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [0, 2, 1]])
def test_completions_are_joined_also_beside_rows_of_another_form(tmp_path: Path, order: list[int]) -> None:
    rows = [{"prompt": "p", "completion": said, "label": said == "b"} for said in "ab"]
    rows += [{"prompt": "q", "chosen": "c", "rejected": "d"}]
    assert read(tmp_path, *(rows[number] for number in order)) == [("q", ["c", "d"], [0, 1]), ("p", ["b", "a"], [0, 1])]


def test_completions_of_messages_with_dates_are_joined(tmp_path: Path) -> None:
    prompt = [{**user("p"), "date": datetime(2026, 12, day)} for day in (1, 1, 2)]
    table = {"prompt": [[message] for message in prompt], "completion": ["a", "b", "a"], "label": [False, True, True]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    [source] = training_sources(DataSection.model_validate({"train": [{"path": str(tmp_path / "rows.parquet")}]}), PREFERENCE_ROLES)
    assert [row.values["completions"] for row in source.rows()] == [["a", "b"], ["a"]]


def test_many_completions_of_a_prompt_are_several_rows_with_good_and_bad_ones(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": f"{number}", "label": "positive" if number % 3 else "negative"} for number in range(30)]
    assert [len(one.completions) for one in read(tmp_path, *rows)] == [8, 8, 7, 7]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 60) | st.just(200), st.booleans())
def test_a_row_of_single_completions_has_about_eight_and_misses_none(tmp_path: Path, rarer: int, other: int, is_good: bool) -> None:
    """A row has both kinds, at most eight and one more; each completion is compared, and repeated only if it must be."""
    flags = [is_good] * rarer + [not is_good] * other
    rows = [{"prompt": "p", "completion": f"{number}", "label": flag} for number, flag in enumerate(flags)]
    found = read(tmp_path, *rows)
    assert max(len(one.completions) for one in found) <= 9
    assert all({*one.ranks} == {0, 1} for one in found)
    times = Counter(int(text) for one in found for text in one.completions)
    assert times.keys() == {*range(len(rows))}
    repeated, fewest = {number for number in times if times[number] > 1}, min((True, False), key=flags.count)
    assert all(flags[number] is fewest for number in repeated)
    assert bool(repeated) == (-(-len(rows) // 8) > min(rarer, other))


TWICE = {"prompt": "p", "chosen": "a", "rejected": "a"}
BETTER = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("rows", "skipped"),
    [
        ([TWICE, BETTER, {"prompt": "q", "chosen": "b", "rejected": "b"}], {"equal completions": 2}),
        ([{"completions": ["a", "b"], "ranks": [1, 1]}, {"completions": ["a", "b"], "ranks": [1, 2]}], {"ties": 1}),
        ([{"chosen": f"{HUMAN} yes", "rejected": f"{HUMAN}{text}"} for text in ("", " no")], {"an empty completion": 1}),  # in HH-RLHF
    ],
)
def test_what_says_nothing_is_dropped_and_counted_and_is_no_error(tmp_path: Path, rows: list[Section], skipped: dict[str, int]) -> None:
    found = stored(tmp_path, encoder(), *rows)
    assert len(found) == 1
    assert {kind: one.rows for kind, one in found.skipped.items()} == skipped


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": " "}, "rows.jsonl:1: a completion is empty; correct or remove the row"),
        ({"completions": ["a", "b"]}, "and scores, nor for response_a and response_b and winner, nor for completion and label"),
        ({"completions": ["a", "b"], "ranks": [1]}, "rows.jsonl:1: 1 ranks or scores for 2 completions; give one for each"),
        ({"completions": ["a", "b"], "scores": [1, float("nan")]}, "column 'scores' holds a list with nan, not a list of numbers"),
        ({"completions": ["a", "b"], "scores": [1, 10**400]}, "column 'scores' holds a list with 10000"),
        ({"completions": ["a", 3], "ranks": [1, 2]}, "not a list of completions, each a text or messages"),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "column 'chosen' holds null, not text or messages"),
        (BETTER | {"prompt": "word " * 80}, "which leave no room for a completion in a row of 64; allow longer rows"),
        (BETTER | {"prompt": "p" * 63}, "the prompt has 64 tokens, which leave no room for a completion in a row of 64"),
        ({"text": "p"}, "no columns for chosen and rejected, nor for completions and ranks"),
        (TWICE, "rows.jsonl:1: it has no two different completions"),
    ],
)
def test_bad_rows_are_refused_with_place_and_remedy(tmp_path: Path, row: Section, message: str) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl") as caught:
        stored(tmp_path, encoder(), row)
    assert message in str(caught.value)


def test_whole_prompts_are_held_out_together(tmp_path: Path) -> None:
    """A prompt is held out by the opening of its conversation: else its completion would be part of a longer prompt in training."""
    rows = []
    for number in range(40):
        opening = f"\n\nHuman: {number}\n\nAssistant:"
        longer = f"{opening} a {number}\n\nHuman: and\n\nAssistant:"
        rows += [{"chosen": f"{part} yes", "rejected": f"{part} no"} for part in (opening, longer)]
        rows += [{"chosen": [user(f"m{number}"), A], "rejected": [user(f"m{number}"), B]}]
        rows += [{"prompt": [user(f"m{number}"), A, user("and")], "chosen": "c", "rejected": "d"}]
        rows += [{"prompt": f"p{number}", "chosen": f"{n}", "rejected": "no"} for n in range(2)]
    keys: list[set[str]] = []
    for source in sources(data(tmp_path, rows, validation=0.3)):
        texts = [str(row.values.get("prompt") or row.values["chosen"]) for row in source.rows()]
        keys.append({text.split("Assistant:")[0] if "Human" in text else text.split("'}")[0] for text in texts})
    assert keys[0].isdisjoint(keys[1])
    assert min(map(len, keys)) > 10
    alone = data(tmp_path, [{"chosen": f"a{number}", "rejected": "b"} for number in range(60)], validation=0.3)
    assert min(len([*source.rows()]) for source in sources(alone)) > 5


def test_a_text_is_encoded_as_it_is_and_closed_by_the_end(tmp_path: Path) -> None:
    codec = tokenizer("byte_bpe")
    one = stored(tmp_path, encoder(codec), {"prompt": "the cat ", "chosen": "sat on", "rejected": "ran"})[0]
    prompt = [*codec.prefix, *codec.encode_bare(["the cat "])[0].tolist()]
    sequences = [[*prompt, *codec.encode_bare([text])[0].tolist(), codec.eos_id] for text in ("sat on", "ran")]
    assert one["input_ids"].tolist() == [*sequences[0], *sequences[1]]
    assert one["sizes"].tolist() == [*map(len, sequences)]
    assert one["prompts"].tolist() == [len(prompt)] * 2
    texts = ConversationTexts(codec, Path("base"), chat=False)
    assert texts.encode([PromptCompletion("here", "the cat ")]) == [(prompt, len(prompt))]  # what a rollout continues


def test_messages_go_through_the_chat_template_and_prompts_are_the_same_alone(tmp_path: Path) -> None:
    from tfkit.objectives import chat

    section = ChatSection.model_validate({"kind": "chat", "format": "chatml"})
    codec = chat.fit_tokenizer(section, chat_codec("chatml"))
    row = {"prompt": MESSAGES, "chosen": [answer("sat on")], "rejected": [answer("ran")]}
    made = encoder(codec, 200)
    one = stored(tmp_path, made, row)[0]
    size, prompt = int(one["sizes"][0]), int(one["prompts"][0])
    ids = one["input_ids"][:size].tolist()
    assert made.texts.encode([PromptCompletion("here", MESSAGES)]) == [(ids[:prompt], prompt)]
    [several] = made.texts.encode([PromptCompletion("here", MESSAGES, [A, user("b"), answer("c")])])
    assert several.message == "here: a completion must be one message of the assistant; correct the row"
    assert codec.decode(ids[prompt:]) == "sat on<|im_end|>"
    assert codec.decode(ids[:prompt]).endswith("<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n")
    assert end_ids(codec)[-1] == ids[-1]
    said = stored(tmp_path, encoder(codec, 200, chat=True), {"chosen": f"{HUMAN} sat on", "rejected": f"{HUMAN} ran"})[0]
    assert said["input_ids"].tolist() == one["input_ids"].tolist()  # a dialogue of HH-RLHF is the same conversation
    named = f"{HUMAN} a\n\nHuman:user\0\n\nAssistant:"  # where a turn is the name of a role
    turns = [*MESSAGES, A, user("user\0")]
    same = stored(tmp_path, encoder(codec, 200), {"chosen": [*turns, B], "rejected": [*turns, answer("c")]})[0]
    written = stored(tmp_path, encoder(codec, 200, chat=True), {"chosen": f"{named} b", "rejected": f"{named} c"})[0]
    assert written["input_ids"].tolist() == same["input_ids"].tolist()
    roles = RewardSection(kind="reward").asked_roles
    whole = [{"prompt": MESSAGES, "completion": [answer("sat on")]}, {"messages": [*MESSAGES, answer("sat on")]}]
    asked = [Columns(roles).take(Record(one, "here")) for one in whole]
    assert [found.arrays["input_ids"] for found in made.encode_unlabelled(asked)] == [ids, ids]  # for which tfkit predict asks
    bad = encoder(codec, 200).encode([Row("", "here", {"prompt": MESSAGES, "chosen": [answer("<|im_end|>")], "rejected": [B]})])
    assert "has '<|im_end|>', which would be read as a special token" in bad[0].message


def test_without_a_chat_template_messages_are_refused(tmp_path: Path) -> None:
    for prompt, chat, why in ((MESSAGES, False, "the prompt or its completion is messages"), ("p", True, "objective.chat is set")):
        said = f"rows.jsonl:1: .*{why}, but base has no chat template.*start from a checkpoint that has one, or give texts"
        with pytest.raises(ModelError, match=said):
            stored(tmp_path, encoder(chat=chat), {"prompt": prompt, "chosen": "a", "rejected": "b"})


def test_completions_are_cut_to_the_context_and_labels_are_those_of_completions(tmp_path: Path) -> None:
    made = encoder(length=12)
    found = stored(tmp_path, made, {"prompt": "the ", "chosen": "cat " * 30, "rejected": "ran"})
    assert (found.truncated, int(found.lengths[0]), found[0]["sizes"][0]) == (1, int(found[0]["sizes"].sum()), 12)
    batch = made.collate(ExampleBatch([[found[0]]], np.zeros(1, np.int64), np.zeros(1, np.int64)), 0)
    for number, (size, prompt) in enumerate(zip(found[0]["sizes"], found[0]["prompts"], strict=True)):
        targets = np.flatnonzero(batch.labels[number].numpy() != IGNORED)
        assert targets.tolist() == list(range(int(prompt) - 1, int(size) - 1))  # each labels the next token, the end included
        assert batch.labels[number, targets].tolist() == batch.input_ids[number, targets + 1].tolist()


def test_pairs_are_all_of_a_prompt_but_ties(tmp_path: Path) -> None:
    made, scored = encoder(), {"prompt": "p", "completions": ["c", "a", "b"], "scores": [0, 2, 0]}
    found = stored(tmp_path, made, scored, {"prompt": "q", "completions": ["one", "two", "three", "four"], "ranks": [1, 2, 3, 4]})
    batch = made.collate(ExampleBatch([[found[0]], [found[1]]], np.zeros(2, np.int64), np.arange(2)), 0)
    pairs = [*zip(batch.extras["better"].tolist(), batch.extras["worse"].tolist(), strict=True)]
    assert pairs == [(0, 1), (0, 2), (3, 4), (3, 5), (3, 6), (4, 5), (4, 6), (5, 6)]
    assert batch.extras["share"].tolist() == pytest.approx([1 / 2] * 2 + [1 / 6] * 6)
    assert batch.extras["row"].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_two_responses_and_the_votes_of_annotators(tmp_path: Path) -> None:
    columns = [("response_a", "response_b"), ("answer_a", "answer_b"), ("response_1", "response_2"), ("output_1", "output_2")]
    told = [*zip(columns, ["a", "model_b", 2, "output_1"], ["yes", "no", "no", "yes"], strict=True)]
    votes = [(["a", "b", "b"], "no"), (["b", "tie", "tie (bothbad)"], "no"), ({"votes_a": 3, "votes_b": 1}, "yes")]
    for (first, second), winner, best in told + [(columns[0], winner, best) for winner, best in votes]:
        [found] = read(tmp_path, {"prompt": "is it", first: "yes", second: "no", "winner": winner})
        assert (found.prompt, found.completions[0], found.ranks) == ("is it", best, [0, 1]), winner


def test_votes_may_be_in_columns_of_their_own_and_a_tie_is_dropped(tmp_path: Path) -> None:
    columns = ["winner_model_a", "winner_model_b", "winner_tie"]
    [found] = read(tmp_path, VOTE | dict(zip(columns, (0, 1, 0), strict=True)), columns={"winner": columns})
    assert found.completions == ["no", "yes"]
    [tie] = read(tmp_path, VOTE | {"winner": ["a", "b"]})
    assert tie.dropped


@pytest.mark.parametrize("winner", [0, "A>B", "[[B >> A]]", "A=B"])
def test_what_is_no_vote_for_one_of_two_responses_is_refused(tmp_path: Path, winner: Any) -> None:
    said = "not a vote for one of two responses: a or b, 1 or 2, or tie"
    with pytest.raises(DataError, match=f"column 'winner' holds 0, {said}" if winner == 0 else said):
        read(tmp_path, VOTE | {"winner": winner})


@pytest.mark.parametrize(
    ("names", "winner", "best"),
    [(["a", "b"], 0, "yes"), (["b", "a"], 0, "no"), (["b", "a"], [1, 1, 0], "yes"), (["tie", "a", "b"], "2", "no")],
)
def test_class_names_say_what_votes_that_are_numbers_from_0_mean(tmp_path: Path, names: list[str], winner: Any, best: str) -> None:
    [found] = read(tmp_path, VOTE | {"winner": winner}, class_names=names)
    assert found.completions[0] == best
