"""The sections of the rules that reward a sampled response. tfkit/alignment/rewards.py applies the rules."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import RewardValue


class _Rule(Data):
    """The base of all rules. A rule gives a response the reward 1 if it holds and else 0; only the kind `python` may give other numbers."""

    weight: RewardValue = Field(1.0, description="Weight of this rule in the reward.")


class ExactAnswerRule(_Rule):
    """The response is the row's answer, or one of its answers that is not blank; white space at both ends is ignored."""

    kind: Literal["exact_answer"]


class NumberRule(_Rule):
    """The last number in the response (such as 42, -0.5, 1,000 or 3e-2) equals the last number in the row's answer; 4.0 equals 4."""

    kind: Literal["number"]


def _is_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}): correct it") from None
    return pattern


class RegexRule(_Rule):
    """A regular expression matches a part of the response."""

    kind: Literal["regex"]
    pattern: Annotated[str, AfterValidator(_is_pattern)] = Field(
        min_length=1, description="The expression, as Python's `re` has it; `^` and `$` are the ends of the whole response."
    )


class ContainsRule(_Rule):
    """The response contains a text; upper and lower case are distinguished."""

    kind: Literal["contains"]
    text: str | None = Field(
        None,
        min_length=1,
        description="The text; null: the row's answer without white space at its ends, or one of its answers that is not blank.",
    )


class ValidJsonRule(_Rule):
    """The response is one JSON value, apart from white space at both ends. NaN and infinities are not valid."""

    kind: Literal["valid_json"]


class ValidPythonRule(_Rule):
    """The response is not blank, and the running Python can parse it as Python code. The code is not run."""

    kind: Literal["valid_python"]


class PythonRule(_Rule):
    """A function of your own returns the reward: `def reward(row, text): ...`, where `row` has `prompt`, a text, and `answers`, a list.

    The function runs with all rights of your account: name only files that you trust. A command that opens a run, such as `resume`, runs
    this code only if you have trained with the same file before, or if you give --allow-code.
    """

    kind: Literal["python"]
    function: str = Field(pattern=r"^.+\.py:[A-Za-z_]\w*$", description="file.py:function; the path is relative to the current folder.")
    allow_code: bool = Field(False, description="true: the code in this file may be run.")

    @property
    def path(self) -> str:
        """The path of the file with the function."""
        return self.function.rpartition(":")[0]

    @model_validator(mode="after")
    def _is_allowed(self) -> "PythonRule":
        if not self.allow_code:
            raise ValueError(f"{self.function} is code that would be run: set allow_code: true if you trust it")
        return self


Rule = Annotated[
    ExactAnswerRule | NumberRule | RegexRule | ContainsRule | ValidJsonRule | ValidPythonRule | PythonRule, Field(discriminator="kind")
]
