"""Choice by likelihood, with or without examples in the prompt (GPT-3, Brown et al. 2020, arXiv 2005.14165, 2.4).

context and answer of row 17         each as the template writes them
<separator>
context and answer of row 4
<separator>
context of the row that is asked     what is scored behind this: each of its answers
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
from tfkit.recipe.schema.objective_sections import FewShotSection


class FewShot:
    """The answer that is the most probable, by each normalization."""

    def __init__(self, section: FewShotSection, examples: Iterable[Row] = (), on_bad_row: OnBadRow = "error"):
        """`examples`: the rows that prompts are made of; not needed without shots. Raises DataError for a bad one that is not skipped."""
        self.section = section
        before, _, self._between = section.template.removesuffix("{answer}").partition("{context}")
        self._before = before
        self._alone = self._between.lstrip() or self._between  # spaces alone belong to the answer behind them
        self._seen: list[tuple[bytes, str]] = []  # the hash of each example's text, and how it is written
        for row in examples if section.shots else ():
            right = self._right(row)
            if isinstance(right, BadRow):
                if on_bad_row == "skip":
                    continue
                raise right.refusal()
            self._seen.append((_hash(row), self._asked(row) + self._choices(row)[right]))
        self._copies = Counter(text for text, _ in self._seen)

    def prompt(self, number: int, row: Row) -> str:
        """The text before the answers of row `number` of its set: the examples, a function of seed and number, and its context."""
        return self.section.separator.join([*self._drawn(number, row), self._asked(row)])

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Each answer behind the prompt; then each behind the text between any context and its answer."""
        right = self._right(row)
        if isinstance(right, BadRow):
            return right
        choices, prompt = self._choices(row), self.prompt(number, row)
        # GPT-3: "normalize by the unconditional probability of each completion, by computing P(completion | context) /
        # P(completion | answer_context), where answer_context is [...] used to prompt that the completion should be an answer".
        return [Question(context, choice) for context in (prompt, self._alone) for choice in choices]

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Which answer each normalization prefers, and whether that is the right one; the first of equals."""
        choices, right = self._choices(row), self._right(row)
        assert isinstance(right, int)
        with_prompt, alone = answers[: len(choices)], answers[len(choices) :]
        sums = [one.log_prob for one in with_prompt]
        scores = {
            "none": sums,
            "tokens": [one.log_prob / max(one.tokens, 1) for one in with_prompt],
            "bytes": [one.log_prob / max(one.bytes, 1) for one in with_prompt],
            "unconditional": [one.log_prob - other.log_prob for one, other in zip(with_prompt, alone, strict=True)],
        }
        predicted = {name: int(np.argmax(values)) for name, values in scores.items()}
        best = predicted[self.section.normalize]
        found = {"accuracy": float(best == right)} | {f"accuracy_{name}": float(one == right) for name, one in predicted.items()}
        prediction = {"prompt": asked[0].context, "choices": choices, "scores": scores[self.section.normalize]}
        prediction |= {"label": choices[right], "predicted": choices[best]}
        return Verdict(found | {"chance": 1 / len(choices)}, prediction)

    def _drawn(self, number: int, row: Row) -> list[str]:
        """As many examples as there are to be, none of them of the row's own text."""
        section = self.section
        if not section.shots:
            return []
        itself = _hash(row)
        own = self._copies[itself]
        if len(self._seen) - own < section.shots:
            has = f"{len(self._seen)} rows" + (f", {own} of them the row itself" if own else "")
            raise DataError(
                f"{row.place}: {section.shots} examples are to stand before it, and data.train has {has}; lower objective.shots"
            )
        random = np.random.Generator(np.random.PCG64([section.seed, number]))
        order = random.choice(len(self._seen), section.shots + own, replace=False)
        return [written for text, written in (self._seen[i] for i in order) if text != itself][: section.shots]

    def _asked(self, row: Row) -> str:
        """A row as the template writes it, up to its answer."""
        return f"{self._before}{row.values['context']}{self._between}"

    def _choices(self, row: Row) -> list[str]:
        return list(row.values.get("choices") or self.section.choices or ())

    def _right(self, row: Row) -> int | BadRow:
        choices = self._choices(row)
        if not choices:
            return BadRow(
                "no answers",
                f"{row.place}: no answers to choose from; name their columns with columns: {{choices: [NAME, NAME]}}, or say "
                "them in objective.choices",
            )
        return right_choice(row.place, choices, row.values["label"])


def _hash(row: Row) -> bytes:
    return blake2b(row.text.encode(errors="surrogatepass"), digest_size=8).digest()
