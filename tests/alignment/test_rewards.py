"""Rewards by rules: each rule on texts that satisfy it and texts that do not."""

import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tfkit.alignment import rewards
from tfkit.alignment.response_sampling import response_text
from tfkit.alignment.rewards import PromptRow, Reward, Rules, compile_limited, last_number
from tfkit.alignment.user_code import CodePermission
from tfkit.errors import UsageError
from tfkit.objectives.rollouts import GroupBaseline, Rollouts
from tfkit.recipe import RecipeError, RecipeText
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.reward_rules import Rule
from tfkit.recipe.schema.rollout_sections import GRPOSection
from tfkit.tokenizer import train_tokenizer

ALL = CodePermission(every_file=True)
ROW = PromptRow("6 * 7 =", ["42", "forty-two"], "sums.jsonl:3")


def rule(**values: Any) -> Any:
    return TypeAdapter(Rule).validate_python(values)


@pytest.mark.parametrize(
    ("section", "good", "bad"),
    [
        ({"kind": "exact_answer"}, ["42", " forty-two\n"], ["", "42.", "it is 42"]),
        ({"kind": "number"}, ["42", "42.0", "6 * 7 is 42.", "4.2e1", "$+42"], ["", "forty-two", "-42", "42 or 43"]),
        ({"kind": "regex", "pattern": r"^\d+\.$"}, ["42.", "7."], ["", "42", "it is 42."]),
        ({"kind": "contains"}, ["so: 42", "forty-two!"], ["", "4 2", "Forty-Two"]),
        ({"kind": "contains", "text": "<answer>"}, ["a<answer>b"], ["", "42"]),
        ({"kind": "valid_json"}, ["42", ' {"a": [1, null]}\n'], ["", "{", "NaN", "[" * 100_000, "1 2"]),
        ({"kind": "valid_python"}, ["x = 1\n", "def f():\n    return '\\d'"], ["", " \n", "x =", "a\0b", "(" * 1_000]),
    ],
    ids=lambda section: section["kind"] if isinstance(section, dict) else "",
)
def test_each_rule(section: dict[str, Any], good: list[str], bad: list[str]) -> None:
    rules = Rules([rule(**section)], ALL)
    wanted = dict.fromkeys(good, Reward(1.0, True)) | dict.fromkeys(bad, Reward(0.0, False))
    assert {text: rules(ROW, text) for text in wanted} == wanted


def test_the_last_number_of_a_text() -> None:
    texts = {"1,234.5 km": 1234.5, "5-3": 3, "x = -3": -3, ".5": 0.5, "a1 b2": 2, "none": None, "1e999999999999999999999": None}
    assert {text: last_number(text) for text in texts} == texts


@given(
    st.lists(st.text("a1 \n\t", max_size=3), min_size=1, max_size=3),
    st.text("a1 \n", max_size=5),
    st.sampled_from(["exact_answer", "number", "contains"]),
)
def test_answers_are_compared_without_white_space_and_blank_ones_never_match(answers: list[str], text: str, kind: str) -> None:
    rules = Rules([rule(kind=kind)], ALL)
    value = rules(PromptRow("", answers), text).value
    stripped = [answer.strip() for answer in answers if answer.strip()]
    assert value == rules(PromptRow("", stripped), text).value == rules(PromptRow("", [*answers, " ", ""]), text).value
    assert rules(PromptRow("", ["", "\n"]), text).value == 0
    if kind == "contains":
        assert value == any(answer in text for answer in stripped)


def test_half_a_character_after_the_answer_makes_another_text() -> None:
    tokenizer = train_tokenizer(TokenizerSection(kind="byte_bpe", vocab_size=257), ["42"])
    section = GRPOSection.model_validate({"kind": "grpo", "rules": [{"kind": "exact_answer"}]})
    rollouts = Rollouts(section, tokenizer, GroupBaseline(is_scaled=True))
    prompt, answer, letter = (ids.tolist() for ids in tokenizer.encode_bare([ROW.prompt, "42", "ä"]))
    exact = Rules(section.rules, ALL)
    assert exact(ROW, response_text(rollouts, prompt, answer)).is_full
    cut = response_text(rollouts, prompt, [*answer, letter[0]])
    assert cut == "42\ufffd"  # as `tfkit generate` prints it
    assert exact(ROW, cut).value == 0


def test_weights_of_several_rules() -> None:
    rules = Rules([rule(kind="number", weight=2.0), rule(kind="regex", pattern=r"\.$", weight=-0.5)], ALL)
    wanted = {"42": Reward(2.0, False), "42.": Reward(1.5, True), "7.": Reward(-0.5, False), "7": Reward(0.0, False)}
    assert {text: rules(ROW, text) for text in wanted} == wanted


MINE = """
class Own(BaseException): pass
def reward(row, text): row["answers"].clear(); return len(text) / 4
def fails(row, text): raise KeyError(row["prompt"])
def ends(row, text): raise SystemExit(3)
def raises(row, text): raise Own("beyond Exception")
def leaves(row, text): raise GeneratorExit
def nan(row, text): return float("nan")
def huge(row, text): return -1e308
def whole(row, text): return 10 ** 400
def large(row, text): return 1e6
"""


def of_code(folder: Path, code: str, function: str = "mine.py:reward") -> Rules:
    """Write mine.py, and return a rule that is a function of it."""
    (folder / "mine.py").write_text(code)
    return Rules([rule(kind="python", function=f"{folder}/{function}", allow_code=True)], ALL)


def test_a_function_of_the_users_own(tmp_path: Path) -> None:
    mine = of_code(tmp_path, MINE)
    assert [(mine(ROW, text).value, mine(ROW, text).is_full) for text in ("ab", "abcd")] == [(0.5, False), (1.0, True)]
    assert ROW.answers == ["42", "forty-two"]
    assert of_code(tmp_path, MINE, "mine.py:large")(ROW, "42").value == 1e6
    with pytest.raises(ValidationError, match="allow_code"):
        rule(kind="python", function=f"{tmp_path}/mine.py:reward")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nan", "gave nan"),
        ("huge", r"gave -1e\+308 .* at most 1,000,000"),
        ("whole", "OverflowError"),
        ("fails", "KeyError"),
        ("ends", "SystemExit: 3"),
        ("raises", "Own: beyond Exception"),
        ("leaves", "GeneratorExit"),
    ],
)
def test_a_function_that_gives_no_reward_is_an_error_with_the_row(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"sums.jsonl:3: .*{name} .*{reason}|sums.jsonl:3: .*{reason}"):
        of_code(tmp_path, MINE, f"mine.py:{name}")(ROW, "42")


@pytest.mark.parametrize(
    ("code", "function", "reason"),
    [
        (MINE, "mine.py:no_such", "objective.rules.0: .*has no function"),
        (MINE, "none.py:f", "objective.rules.0: .*does not exist"),
        ("1 / 0", "mine.py:reward", "ZeroDivisionError"),
        ("import sys; sys.exit()", "mine.py:reward", "SystemExit"),
    ],
)
def test_a_file_without_the_function_is_an_error(tmp_path: Path, code: str, function: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        of_code(tmp_path, code, function)


PARTS = """
from __future__ import annotations
import pickle
from dataclasses import dataclass
@dataclass
class Parts: value: float = VALUE
def reward(row, text): return pickle.loads(pickle.dumps(Parts())).value
"""


def test_the_file_of_a_users_function_may_have_dataclasses_with_annotations_that_are_texts(tmp_path: Path) -> None:
    for value in ("1", "2"):
        (tmp_path / value).mkdir()
    first, second = (of_code(tmp_path / value, PARTS.replace("VALUE", value)) for value in ("1", "2"))
    assert (first(ROW, "42").value, second(ROW, "42").value) == (1, 2)


def test_the_output_of_a_users_function_is_not_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys\nprint('loaded')\ndef reward(row, text):\n    print('called')\n    sys.stdout.write(text)\n    return 1\n"
    assert of_code(tmp_path, code)(ROW, "42").is_full
    assert capsys.readouterr() == ("", "loaded\ncalled\n42")


def test_an_unknown_rule_is_told_the_known_ones() -> None:
    text = "model: {preset: gpt2}\ndata: {train: [{path: a}]}\ntraining: {steps: 1}\nobjective: {kind: grpo, rules: [{kind: nummber}]}\n"
    with pytest.raises(RecipeError, match=r"r.yaml:4:40: objective.rules.0.kind: 'nummber' is none of exact_answer, number, .*mean number"):
        RecipeText(Path("r.yaml"), text).read()


ATOMS = ["a", "b", "A", ".", "^", "$", "*", "+", "?", "*?", "(", ")", "(?:", "|", "(?=", "(?!", "(?<=a)", "(?i:", "(?P<n>a)", "(?#[)"]
ATOMS += ["[ab]", "[^a]", "[\\w-]", "[^\\W\\d_]", "[\\S^]", "[[a]", "[a[:b]", "[]a]", "[", "]", "{", "}", "{e}", "{}", "{1,2}", "{2}"]
ATOMS += ["(?x)", "{,2}", "#", " ", *(f"\\{letter}" for letter in "wWsSdDbBAZn1[{"), "²", "é"]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(ATOMS), min_size=1, max_size=7).map("".join),
    st.lists(st.sampled_from([*"abAB 1_²é{e}[:\n\x1c#-]\u0301"]), max_size=8).map("".join),
)
@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning", "ignore:Possible set:FutureWarning")
def test_a_pattern_has_the_meaning_that_it_has_in_re(pattern: str, text: str) -> None:
    try:
        found = re.search(pattern, text)
    except (re.error, OverflowError):
        with pytest.raises(ValidationError, match="is no regular expression"):
            rule(kind="regex", pattern=pattern)
        return
    assert Rules([rule(kind="regex", pattern=pattern)], ALL)(ROW, text).is_full == (found is not None)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("pattern", [r"\w", r"\s", r"\d", r"[^\W_]", r"(?a)\w", "."])
def test_a_class_has_the_characters_that_it_has_in_re(pattern: str) -> None:
    """Characters that are not assigned in Python's version of Unicode are left out."""
    theirs, ours = re.compile(pattern), compile_limited(pattern)
    characters = (
        chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn"
    )
    assert [one for one in characters if bool(theirs.search(one)) != bool(ours.search(one))] == []


def test_a_pattern_with_deeply_nested_groups_is_an_error_that_names_the_rule() -> None:
    """`re` compiles it, but `regex` needs a deeper recursion than Python allows."""
    nested = rule(kind="regex", pattern="(?:" * 300 + "a" + ")" * 300)
    with pytest.raises(UsageError, match=r"objective.rules.0: '\(\?:.* cannot be compiled \(maximum recursion depth exceeded"):
        Rules([nested], ALL)


def test_a_pattern_that_takes_for_ever_is_an_error_that_names_rule_and_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "SECONDS", 0.2)
    rules = Rules([rule(kind="number"), rule(kind="regex", pattern="(a|aa)+$")], ALL)
    assert rules(ROW, "a" * 60).value == 1
    with pytest.raises(
        UsageError, match=r"sums.jsonl:3: objective.rules.1: '\(a\|aa\)\+\$' needs more than 0.2 s for a response of 61 characters"
    ):
        rules(ROW, "a" * 60 + "b")
