"""Choice by likelihood, with or without examples in the prompt (GPT-3, Brown et al. 2020, arXiv 2005.14165, 2.4).

context and answer of row 17         each as the template writes them
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
    """The most probable answer, by each normalization."""

    def __init__(self, section: FewShotSection, examples: Iterable[Row] = (), on_bad_row: OnBadRow = "error"):
        """`examples`: the rows for prompts; not needed without shots. Raise DataError for a bad one that is not skipped."""
        self.section = section
        before, _, self._between = section.template.removesuffix("{answer}").partition("{context}")
        self._before = before
        self._alone = self._between.lstrip() or self._between  # spaces alone belong to the answer after them
        self._examples: list[tuple[bytes, str]] = []  # the hash of each example's text, and the example as written
        for row in examples if section.shots else ():
            right = self._right(row)
            if isinstance(right, BadRow):
                if on_bad_row == "skip":
                    continue
                raise right.refusal()
            self._examples.append((_hash(row), self._question(row) + self._choices(row)[right]))
        self._copies = Counter(text for text, _ in self._examples)

    def prompt(self, number: int, row: Row) -> str:
        """Return the text before the answers of row `number` of its set: the examples, a function of seed and number, and its context."""
        return self.section.separator.join([*self._drawn(number, row), self._question(row)])

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Return each answer after the prompt; then each after the template's text between context and answer."""
        right = self._right(row)
        if isinstance(right, BadRow):
            return right
        choices, prompt = self._choices(row), self.prompt(number, row)
        # GPT-3: "normalize by the unconditional probability of each completion, by computing P(completion | context) /
        # P(completion | answer_context), where answer_context is [...] used to prompt that the completion should be an answer".
        return [Question(context, choice) for context in (prompt, self._alone) for choice in choices]

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Return the answer that each normalization prefers, and whether it is the right one; the first of equals."""
        choices, right = self._choices(row), self._right(row)
        assert isinstance(right, int)
        with_prompt, alone = answers[: len(choices)], answers[len(choices) :]
        sums = [one.log_prob for one in with_prompt]
        likelihood = {
            "none": sums,
            "tokens": [one.log_prob / max(one.tokens, 1) for one in with_prompt],
            "bytes": [one.log_prob / max(one.bytes, 1) for one in with_prompt],
            "unconditional": [one.log_prob - other.log_prob for one, other in zip(with_prompt, alone, strict=True)],
        }
        best = {name: int(np.argmax(values)) for name, values in likelihood.items()}
        predicted = best[self.section.normalize]
        scores = {"accuracy": float(predicted == right)} | {f"accuracy_{name}": float(one == right) for name, one in best.items()}
        prediction = {"prompt": asked[0].context, "choices": choices, "scores": likelihood[self.section.normalize]}
        prediction |= {"label": choices[right], "predicted": choices[predicted]}
        return Verdict(scores | {"chance": 1 / len(choices)}, prediction)

    def _drawn(self, number: int, row: Row) -> list[str]:
        """Draw the examples, none of them with the row's own text."""
        section = self.section
        if not section.shots:
            return []
        itself = _hash(row)
        own = self._copies[itself]
        if len(self._examples) - own < section.shots:
            has = f"{len(self._examples)} rows" + (f", {own} of them the row itself" if own else "")
            raise DataError(f"{row.place}: objective.shots is {section.shots}, but data.train has {has}; lower objective.shots")
        random = np.random.Generator(np.random.PCG64([section.seed, number]))
        order = random.choice(len(self._examples), section.shots + own, replace=False)
        return [written for text, written in (self._examples[i] for i in order) if text != itself][: section.shots]

    def _question(self, row: Row) -> str:
        """Return a row as the template writes it, up to its answer."""
        return f"{self._before}{row.values['context']}{self._between}"

    def _choices(self, row: Row) -> list[str]:
        return list(row.values.get("choices") or self.section.choices or ())

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
