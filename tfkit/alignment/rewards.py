"""Rewards of responses by rules that anyone can check: each gives a number for the row of a prompt and the text of a response."""

import ast
import hashlib
import importlib.util
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from tfkit.errors import UsageError
from tfkit.recipe.schema.reward_rules import (
    ContainsRule,
    ExactAnswerRule,
    NumberRule,
    PythonRule,
    RegexRule,
    Rule,
    ValidJsonRule,
    ValidPythonRule,
)

_NUMBER = re.compile(r"(?:(?<!\w)[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class PromptRow:
    """The parts of a prompt's row that a rule may read."""

    prompt: str
    answers: Sequence[str]  # equally good ones; none of a row that has none
    place: str = ""  # for errors


@dataclass(frozen=True)
class Reward:
    """The reward of a response, and whether every rule gave its full number, 1."""

    value: float
    is_full: bool


Scorer = Callable[[PromptRow, str], float]


class Rules:
    """The rules of a recipe, ready to be applied. Raises UsageError for code that cannot be loaded."""

    def __init__(self, rules: Sequence[Rule]):
        self._scorers = [(rule.weight, _scorer(rule, f"objective.rules.{number}")) for number, rule in enumerate(rules)]

        files = [rule.function.rpartition(":")[0] for rule in rules if isinstance(rule, PythonRule)]
        self.code_hashes = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
        """The SHA-256 of each file of the user's own."""

    def __call__(self, row: PromptRow, text: str) -> Reward:
        """Return the weighted sum of what the rules give for a response. Raises UsageError where a function of the user's own fails."""
        found = [(weight, score(row, text)) for weight, score in self._scorers]
        return Reward(math.fsum(weight * value for weight, value in found), all(value == 1 for _, value in found))


def _scorer(rule: Rule, place: str) -> Scorer:
    match rule:
        case ExactAnswerRule():
            return lambda row, text: float(text.strip() in [answer.strip() for answer in row.answers])
        case NumberRule():
            return lambda row, text: float(_same_number(row.answers, text))
        case RegexRule():
            pattern = re.compile(rule.pattern)
            return lambda row, text: float(pattern.search(text) is not None)
        case ContainsRule():
            wanted = rule.text
            return lambda row, text: float(any(part in text for part in ([wanted] if wanted is not None else row.answers)))
        case ValidJsonRule():
            return lambda row, text: float(_is_json(text))
        case ValidPythonRule():
            return lambda row, text: float(_is_python(text))
        case PythonRule():
            return _own_function(rule.function, place)


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text; commas between thousands are no part of it."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:  # an exponent beyond all bounds
        return None


def _same_number(answers: Sequence[str], text: str) -> bool:
    given = last_number(text)
    return given is not None and any(last_number(answer) == given for answer in answers)


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
            warnings.simplefilter("ignore")  # about an escape in a string, or a comparison of literals
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last where brackets are nested too deep
        return False
    return True


def _own_function(named: str, place: str) -> Scorer:
    """Load the function of file.py:function. It is given a dict, which it may change without any effect."""
    path, _, name = named.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"tfkit_reward_{Path(path).stem}", path)
    assert spec is not None, "the section takes the names of Python files alone"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError:
        raise UsageError(f"{place}: {path} does not exist: correct the path") from None
    except (Exception, SystemExit) as error:  # a script may end with sys.exit
        raise UsageError(f"{place}: {path} cannot be run ({type(error).__name__}: {error}): correct it") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{place}: {path} has no function {name}: name one that it has")

    def score(row: PromptRow, text: str) -> float:
        try:
            value = float(function({"prompt": row.prompt, "answers": list(row.answers)}, text))
        except (Exception, SystemExit) as error:
            raise UsageError(f"{row.place}: {named} failed for a response to it ({type(error).__name__}: {error}): correct it") from error
        if not math.isfinite(value):
            raise UsageError(f"{row.place}: {named} gave {value} for a response to it: return a finite number")
        return value

    return score
