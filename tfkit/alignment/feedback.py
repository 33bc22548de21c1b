"""Examples of preferences from prompts: a policy's responses to each prompt, ranked by a judge."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tfkit.alignment.response_sampling import SampledResponse, sample
from tfkit.alignment.rewards import Rules
from tfkit.alignment.user_code import NO_CODE
from tfkit.data import Encoded, Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.objectives.ai_feedback import Feedback
from tfkit.objectives.companion import PLACEHOLDER
from tfkit.objectives.preference_rows import IDS

_VERSION = "ai feedback 1"  # part of the fingerprint: raise it if changed code makes other examples from the same prompts
_BATCH_SIZE = 256  # the number of responses that are sampled together, and of those that are judged together


class FeedbackEncoder:
    """Makes examples of preferences from prompts: the policy writes responses, and a judge ranks them, on `device` in `precision`."""

    ids = IDS

    def __init__(self, feedback: Feedback, device: torch.device, precision: torch.dtype):
        self.feedback, self.device, self.precision = feedback, device, precision
        self.is_plan = PLACEHOLDER in feedback.policy.facts  # whether the policy is a placeholder with random weights, for `tfkit plan`

    def fingerprint(self) -> str:
        """Return a hash of how prompts are encoded, of the policy, the judge, their precision and device, and of the sampling settings."""
        feedback, section = self.feedback, self.feedback.rollouts.section
        about = [_VERSION, feedback.prompts.fingerprint(), *(model.sha256 for model in feedback.companions), self.precision]
        about += [self.device.type, section.completions, section.temperature, section.max_new_tokens, feedback.seed, self.is_plan]
        about.append(sorted(feedback.rollouts.end_ids))
        return digest(*about)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return, for each prompt, the prompt with each distinct response, from the best response to the worst, and their ranks.

        Sampling is a function of the seed and of all prompts in `rows`. A prompt without two different finite scores is dropped.
        """
        prompts = self.feedback.prompts.encode(rows)
        encoded = [prompt for prompt in prompts if isinstance(prompt, Encoded)]
        responses = iter(self._planned(encoded) if self.is_plan else self._judged(encoded))
        pairs = zip(rows, prompts, strict=True)
        return [prompt if isinstance(prompt, BadRow) else _ranked(row, next(responses)) for row, prompt in pairs]

    def _judged(self, prompts: Sequence[Encoded]) -> Iterator[list[SampledResponse]]:
        """Yield, for each prompt, its sampled responses with the judge's scores."""
        feedback, count = self.feedback, self.feedback.rollouts.section.completions
        for companion in feedback.companions:
            companion.model.to(self.device, self.precision)
        content = b"\0".join(bytes(np.array(prompt.arrays["input_ids"], "<i4")) for prompt in prompts)
        digest = hashlib.blake2b(content, digest_size=8, key=str(feedback.seed).encode()).digest()
        sampled = sample(
            feedback.policy.model,
            [prompt.example() for prompt in prompts],
            feedback.rollouts,
            Rules((), NO_CODE),
            completions=count,
            seed=int.from_bytes(digest[:4], "little"),
            batch_size=_BATCH_SIZE,
        )
        return (sampled[first : first + count] for first in range(0, len(sampled), count))

    def _planned(self, prompts: Sequence[Encoded]) -> Iterator[list[SampledResponse]]:
        """Yield, for each prompt, made-up responses of the largest length: `tfkit plan` needs only shapes."""
        section = self.feedback.rollouts.section
        for prompt in prompts:
            ids = prompt.example()["input_ids"].tolist()
            yield [SampledResponse(ids, [n] * section.max_new_tokens, False, 0.0, False, float(n)) for n in range(section.completions)]


def _ranked(row: Row, responses: Sequence[SampledResponse]) -> Encoded | BadRow:
    """Return the example of a prompt: equal responses appear once, and equal scores share a rank. Responses without a finite score are
    left out; if fewer than two different scores remain, return an error.
    """
    distinct = {tuple(response.ids): response for response in responses if response.gold is not None}
    best = sorted(distinct.values(), key=lambda response: -(response.gold or 0.0))
    scores = [response.gold for response in best]
    levels = {score: rank for rank, score in enumerate(dict.fromkeys(scores))}
    if len(levels) < 2:
        return BadRow("equal responses", f"{row.place}: its responses are equally good, so none is better; remove the row", dropped=True)
    arrays = {
        "input_ids": [token for response in best for token in (*response.prompt, *response.ids)],
        "sizes": [len(response.prompt) + len(response.ids) for response in best],
        "prompts": [len(response.prompt) for response in best],
        "ranks": [levels[score] for score in scores],
    }
    return Encoded(arrays, len(arrays["input_ids"]))
