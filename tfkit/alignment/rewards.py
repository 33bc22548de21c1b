"""Verifiable rewards of responses: each rule computes a number from a prompt's row and the text of a response."""

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from types import ModuleType

import regex

from tfkit.alignment.user_code import CodePermission, open_code, running_code
from tfkit.errors import UsageError
from tfkit.recipe.schema import reward_rules
from tfkit.recipe.schema.bounds import LARGEST_REWARD

_NUMBER = re.compile(r"(?:(?<!\w)[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
SECONDS = 2.0  # processor time that a pattern may take for one text; most patterns take microseconds
_WORD, _SPACE = r"\p{L}\p{Nt=De}\p{Nt=Di}\p{Nt=Nu}_", r"\s\x1c-\x1f"  # the characters that `re` matches with \w and \s
_SETS = {"w": _WORD, "s": _SPACE}
_COMPLEMENTS = {"W": f"[^{_WORD}]", "S": f"[^{_SPACE}]"}
_OUTSIDE_SETS = _COMPLEMENTS | {
    "w": f"[{_WORD}]",
    "s": f"[{_SPACE}]",
    "b": f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))",
    "B": rf"(?!\A\Z)(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))",
}
# The parts of a pattern that `_translated` rewrites; and comments, which it keeps.
_PARTS = r"(?s)(?P<comment>\(\?#[^)]*\)%s)|\[(?P<negated>\^?)(?P<set>\]?(?:\\.|[^\]\\])*)\]|\\(?P<escaped>.)|\{(?!\d*,?\d*\})|\{\}"


@dataclass(frozen=True)
class PromptRow:
    """The parts of a prompt's row that a rule may read."""

    prompt: str
    answers: Sequence[str]  # the accepted answers; may be empty
    place: str = ""  # the file and line of the row, for error messages

    @property
    def stripped_answers(self) -> list[str]:
        """The answers without white space at their ends; blank ones are left out."""
        return [stripped for answer in self.answers if (stripped := answer.strip())]


@dataclass(frozen=True)
class Reward:
    """The weighted sum of the rules' values for a response, and whether every value is 1."""

    value: float
    is_full: bool


Scorer = Callable[[PromptRow, str], float]


class Rules:
    """The compiled rules of a recipe. Raises UsageError for an invalid pattern, or code that is not allowed, fails or lacks a function."""

    def __init__(self, rules: Sequence[reward_rules.Rule], permission: CodePermission):
        self.code_hashes: list[str] = []  # the SHA-256 of each file with a user's function
        self._scorers = [(rule.weight, self._scorer(rule, f"objective.rules.{n}", permission)) for n, rule in enumerate(rules)]

    def __call__(self, row: PromptRow, text: str) -> Reward:
        """Return a response's reward. Raises UsageError if a user's function fails or exceeds LARGEST_REWARD, or a pattern is too slow."""
        values = [(weight, score(row, text)) for weight, score in self._scorers]
        return Reward(math.fsum(weight * value for weight, value in values), all(value == 1 for _, value in values))

    def _scorer(self, rule: reward_rules.Rule, place: str, permission: CodePermission) -> Scorer:
        match rule:
            case reward_rules.ExactAnswerRule():
                return lambda row, text: float(text.strip() in row.stripped_answers)
            case reward_rules.NumberRule():
                return lambda row, text: float(_same_number(row.answers, text))
            case reward_rules.RegexRule():
                return _search(rule.pattern, place)
            case reward_rules.ContainsRule():
                required = rule.text
                return lambda row, text: float(any(part in text for part in ([required] if required is not None else row.stripped_answers)))
            case reward_rules.ValidJsonRule():
                return lambda row, text: float(_is_json(text))
            case reward_rules.ValidPythonRule():
                return lambda row, text: float(_is_python(text))
            case reward_rules.PythonRule():
                module, sha256 = open_code(place, rule.path, permission)
                self.code_hashes.append(sha256)
                return _user_function(rule.function, module, place)


def _search(pattern: str, place: str) -> Scorer:
    try:
        compiled = compile_limited(pattern)
    except (regex.error, RecursionError) as error:
        raise UsageError(f"{place}: {pattern!r} cannot be compiled ({error}): write it in another way") from None

    def score(row: PromptRow, text: str) -> float:
        try:
            return float(compiled.search(text, timeout=SECONDS) is not None)
        except TimeoutError:
            raise UsageError(
                f"{row.place}: {place}: {pattern!r} needs more than {SECONDS:g} s for a response of {len(text):,} characters: rewrite it "
                "without repeated alternatives or repetition within repetition, such as (a|aa)+"
            ) from None

    return score


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, without thousands separators; None if there is none, or its exponent is too large."""
    numbers = _NUMBER.findall(text)
    try:
        return Decimal(numbers[-1].replace(",", "")) if numbers else None
    except InvalidOperation:  # the exponent is too large
        return None


def _same_number(answers: Sequence[str], text: str) -> bool:
    number = last_number(text)
    return number is not None and any(last_number(answer) == number for answer in answers)


def _is_json(text: str) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _is_python(text: str) -> bool:
    if not text.strip():
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of invalid escapes in strings, and of comparisons of literals
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: brackets nested too deeply
        return False
    return True


def _user_function(target: str, module: ModuleType, place: str) -> Scorer:
    """Return a scorer that calls the function that `target` (file.py:function) names, with the prompt, its answers and the response."""
    path, _, name = target.rpartition(":")
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{place}: {path} has no function {name}: name one that it has")

    def score(row: PromptRow, text: str) -> float:
        with running_code(f"{row.place}: {target} failed for a response to this prompt"):
            value = float(function({"prompt": row.prompt, "answers": list(row.answers)}, text))
        if not abs(value) <= LARGEST_REWARD:
            limit = f"return a number of at most {LARGEST_REWARD:,}"
            raise UsageError(f"{row.place}: {target} gave {value} for a response to this prompt: {limit}")
        return value

    return score


def compile_limited(pattern: str) -> "regex.Pattern[str]":
    """Compile a pattern of `re`, without a change of meaning; pass `timeout=SECONDS` to the result's methods. Raises re.error, regex.error.

    The pattern is translated for the `regex` library, which has a time limit, but reads some syntax differently.
    """
    flags = re.compile(pattern).flags
    parts = _PARTS % (r"|#[^\n]*" if flags & re.VERBOSE else "")
    return regex.compile(re.sub(parts, partial(_translated, is_ascii=bool(flags & re.ASCII)), pattern), regex.V0)


def _translated(part: re.Match[str], is_ascii: bool) -> str:
    """Return a part of a pattern in the syntax of `regex`, in which `{e}` and `[[:alpha:]]` have meanings that `re` does not know."""
    if part["comment"] is not None:
        return part[0]
    if part["escaped"] is not None:
        return part[0] if is_ascii else _OUTSIDE_SETS.get(part["escaped"], part[0])
    if part["set"] is None:
        return part[0].replace("{", r"\{")
    content = re.sub(r"(?s)(\\.)|\[", lambda member: member[1] or r"\[", part["set"])
    if is_ascii:
        return f"[{part['negated']}{content}]"
    complements = [_COMPLEMENTS[letter] for letter in re.findall(r"(?s)\\(.)", content) if letter in _COMPLEMENTS]
    content = re.sub(r"(?s)\\(.)", lambda member: "" if member[1] in _COMPLEMENTS else _SETS.get(member[1], member[0]), content)
    if not complements:
        return f"[{part['negated']}{content}]"
    rest = [f"[\\{content}]" if content[0] in "^]" else f"[{content}]"] if content else []
    either = "|".join([*rest, *complements])  # in `regex`, a set may not hold the complement of a set
    return f"(?:(?!{either})(?s:.))" if part["negated"] else f"(?:{either})"
