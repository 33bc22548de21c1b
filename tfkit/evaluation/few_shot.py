"""Multiple choice by likelihood, with or without examples in the prompt (GPT-3, Brown et al. 2020, arXiv 2005.14165, 2.4).

context and answer of row 17         each formatted by the template
<separator>
context and answer of row 4
<separator>
context of the row in question       each of its answers is scored after this
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from tfkit.data import Row
from tfkit.data.columns.rows import BadRow, OnBadRow
from tfkit.errors import DataError
from tfkit.evaluation.judging import Verdict
from tfkit.evaluation.likelihood import Likelihood, Question
from tfkit.objectives.multiple_choice import right_choice
from tfkit.recipe.schema.judging_sections import FewShotSection


class FewShot:
    """Chooses the most probable answer, by each normalization."""

    def __init__(self, section: FewShotSection, examples: Iterable[Row] = (), on_bad_row: OnBadRow = "error"):
        """`examples`: the rows for prompts; not needed without shots. Raises DataError for a bad row that is not skipped."""
        self.section = section
        before, _, self._between = section.template.removesuffix("{answer}").partition("{context}")
        self._before = before
        self._alone = self._between.lstrip() or self._between  # a text of spaces alone is kept, since they belong to the answer
        self._examples: list[tuple[bytes, str]] = []  # the hash of each example's row, and the formatted example
        for row in examples if section.shots else ():
            right = self._right(row)
            if isinstance(right, BadRow):
                if on_bad_row == "skip":
                    continue
                raise right.refusal()
            self._examples.append((_hash(row), self._question(row) + self._choices(row)[right]))
        self._copies = Counter(text_hash for text_hash, _ in self._examples)

    def prompt(self, number: int, row: Row) -> str:
        """Return the text before the answers of row `number` of its set: examples, a function of seed and number, and the row's context."""
        return self.section.separator.join([*self._drawn(number, row), self._question(row)])

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Return a question per answer after the prompt, then one per answer after only the template's text between context and answer."""
        right = self._right(row)
        if isinstance(right, BadRow):
            return right
        choices, prompt = self._choices(row), self.prompt(number, row)
        # GPT-3: "normalize by the unconditional probability of each completion, by computing P(completion | context) /
        # P(completion | answer_context), where answer_context is [...] used to prompt that the completion should be an answer".
        return [Question(context, choice) for context in (prompt, self._alone) for choice in choices]

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Return the scores of the answer that each normalization prefers; among equal answers the first."""
        choices, right = self._choices(row), self._right(row)
        assert isinstance(right, int)
        with_prompt, alone = answers[: len(choices)], answers[len(choices) :]
        sums = [answer.log_prob for answer in with_prompt]
        likelihood = {
            "none": sums,
            "tokens": [answer.log_prob / max(answer.tokens, 1) for answer in with_prompt],
            "bytes": [answer.log_prob / max(answer.bytes, 1) for answer in with_prompt],
            "unconditional": [answer.log_prob - unconditional.log_prob for answer, unconditional in zip(with_prompt, alone, strict=True)],
        }
        best = {name: int(np.argmax(values)) for name, values in likelihood.items()}
        predicted = best[self.section.normalize]
        scores = {"accuracy": float(predicted == right)} | {f"accuracy_{name}": float(one == right) for name, one in best.items()}
        prediction = {"prompt": asked[0].context, "choices": choices, "scores": likelihood[self.section.normalize]}
        prediction |= {"label": choices[right], "predicted": choices[predicted]}
        return Verdict(scores | {"chance": 1 / len(choices)}, prediction)

    def _drawn(self, number: int, row: Row) -> list[str]:
        """Return the drawn examples, none of which has the row's own text."""
        section = self.section
        if not section.shots:
            return []
        row_hash = _hash(row)
        copies = self._copies[row_hash]
        if len(self._examples) - copies < section.shots:
            has = f"{len(self._examples)} rows" + (f", {copies} of them the row itself" if copies else "")
            raise DataError(f"{row.place}: objective.shots is {section.shots}, but data.train has {has}; lower objective.shots")
        random = np.random.Generator(np.random.PCG64([section.seed, number]))
        order = random.choice(len(self._examples), section.shots + copies, replace=False)
        return [example for text_hash, example in (self._examples[i] for i in order) if text_hash != row_hash][: section.shots]

    def _question(self, row: Row) -> str:
        """Format a row by the template, up to its answer."""
        return f"{self._before}{row.values['context']}{self._between}"

    def _choices(self, row: Row) -> list[str]:
        return row.values.get("choices") or self.section.choices or []

    def _right(self, row: Row) -> int | BadRow:
        choices = self._choices(row)
        if not choices:
            return BadRow(
                "no answers",
                f"{row.place}: no answers to choose from; name their columns with columns: {{choices: [NAME, NAME]}}, or list "
                "them in objective.choices",
            )
        return right_choice(row.place, choices, row.values["label"])


def _hash(row: Row) -> bytes:
    return blake2b(row.text.encode(errors="surrogatepass"), digest_size=8).digest()
