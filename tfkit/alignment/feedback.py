"""Examples of preferences that are made of prompts: a policy's responses to each, in the order that a judge gives them."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tfkit.alignment.rewards import Rules
from tfkit.alignment.sampling import Sampled, sample
from tfkit.data import Encoded, Row
from tfkit.data.columns.rows import BadRow
from tfkit.objectives.ai_feedback import Feedback
from tfkit.objectives.companion import PLACEHOLDER
from tfkit.objectives.preference_rows import IDS

_VERSION = "ai feedback 1"  # part of the fingerprint: raise it when the same prompts and models give other examples
_AT_ONCE = 256  # responses


class FeedbackEncoder:
    """Encodes prompts as a PreferenceEncoder does rows that have their completions. `device` and `precision` are those of the models."""

    ids = IDS

    def __init__(self, feedback: Feedback, device: torch.device, precision: torch.dtype):
        self.feedback, self.device, self.precision = feedback, device, precision
        self.is_plan = PLACEHOLDER in feedback.policy.facts

    def fingerprint(self) -> str:
        """Of the prompts' ids, both models, their arithmetic, and the sampling."""
        feedback, section = self.feedback, self.feedback.rollouts.section
        about = [_VERSION, feedback.prompts.fingerprint(), *(one.sha256 for one in feedback.companions), self.precision, self.device.type]
        about += [section.completions, section.temperature, section.max_new_tokens, feedback.seed, self.is_plan]
        return hashlib.blake2b("\0".join(map(str, about)).encode(), digest_size=16).hexdigest()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the sequences of the different responses to each prompt, from the best to the worst, with their ranks.

        The draws are a function of the seed and of all these prompts. A prompt whose responses are equally good is dropped.
        """
        prompts = self.feedback.prompts.encode(rows)
        asked = [one for one in prompts if isinstance(one, Encoded)]
        found = iter(self._planned(asked) if self.is_plan else self._judged(asked))
        return [one if isinstance(one, BadRow) else _ranked(row, one, next(found)) for row, one in zip(rows, prompts, strict=True)]

    def _judged(self, asked: Sequence[Encoded]) -> Iterator[list[Sampled]]:
        feedback, count = self.feedback, self.feedback.rollouts.section.completions
        for one in feedback.companions:
            one.model.to(self.device, self.precision)
        content = b"\0".join(bytes(np.array(one.arrays["input_ids"], "<i4")) for one in asked)
        draws = hashlib.blake2b(content, digest_size=8, key=str(feedback.seed).encode()).digest()
        sampled = sample(
            feedback.policy.model,
            [one.example() for one in asked],
            feedback.rollouts,
            Rules(()),
            completions=count,
            seed=int.from_bytes(draws[:4], "little"),
            at_once=_AT_ONCE,
        )
        return (sampled[first : first + count] for first in range(0, len(sampled), count))

    def _planned(self, asked: Sequence[Encoded]) -> Iterator[list[Sampled]]:
        """Responses of the greatest length, for the shapes of a plan: the policy is not trained yet."""
        section = self.feedback.rollouts.section
        for one in asked:
            ids = one.example()["input_ids"].tolist()
            yield [Sampled(ids, [n] * section.max_new_tokens, False, 0.0, False, float(n)) for n in range(section.completions)]


def _ranked(row: Row, prompt: Encoded, responses: Sequence[Sampled]) -> Encoded | BadRow:
    """Return the example of a prompt: of equal responses one, and of equal scores one rank."""
    different = {tuple(one.ids): one for one in responses if one.gold is not None}
    best = sorted(different.values(), key=lambda one: -(one.gold or 0.0))
    scores = [one.gold for one in best]
    levels = {score: rank for rank, score in enumerate(dict.fromkeys(scores))}
    if len(levels) < 2:
        return BadRow("equal responses", f"{row.place}: its responses are equally good, so none is better; remove the row", dropped=True)
    arrays = {
        "input_ids": [number for one in best for number in (*one.prompt, *one.ids)],
        "sizes": [len(one.prompt) + len(one.ids) for one in best],
        "prompts": [len(one.prompt) for one in best],
        "ranks": [levels[score] for score in scores],
    }
    return Encoded(arrays, len(arrays["input_ids"]))
