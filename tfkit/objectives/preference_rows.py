"""Preferences, from pairs, votes, flags, ranks or scores: a prompt and its completions, best first; and the loss of pairs of completions.

An example (an encoded row) has the sequences of all completions, each after its prompt, and their ranks: 0 is the best, equal ranks are a
tie. A pair is two completions of a prompt of which one is better. Completions are scored by a reward model, or by DPO's implicit reward.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, Example, ExampleBatch, Row, digest
from tfkit.data.columns.preference_forms import ASSISTANT, is_dialogue, is_whole, read_flag
from tfkit.data.columns.rows import BadRow
from tfkit.data.sources.derived_rows import split_prompt
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.context import LONGER_ROWS
from tfkit.objectives.conversation_texts import ConversationTexts, PromptCompletion, PromptedIds, Turns
from tfkit.objectives.labelled import RowResult
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.objective import IGNORED, Batch, Sum

IDS = ("input_ids",)
_BINS = 10  # the number of bins of confidence in `calibration_metrics`


class Preference(NamedTuple):
    """A prompt, its completions from the best to the worst, and the rank of each: 0 is the best, ties share a rank."""

    prompt: Turns
    completions: list[Turns]
    ranks: list[int]


def read_preference(row: Row) -> Preference | BadRow:
    """Return the preference that a row states, or the row's error."""
    values = row.values
    prompt: Turns = values.get("prompt", "")
    if "chosen" in values:
        prompt, completions = _common_beginning(prompt, values["chosen"], values["rejected"])
        return _ordered(row, prompt, completions, [0.0, 1.0])
    if "winner" in values:
        prompt, completions = _common_beginning(prompt, values["response_a"], values["response_b"])
        return _ordered(row, prompt, completions, [-votes for votes in values["winner"]])
    completions = values["completions"]
    if "labels" in values:
        flags = [read_flag(str(label)) for label in values["labels"]]
        if None in flags:
            wrong = values["labels"][flags.index(None)]
            return BadRow(
                "no flag", f"{row.place}: the label {wrong!r} of a completion is neither true nor false, good nor bad; correct it"
            )
        if len({*flags}) == 1:
            only = "good" if flags[0] else "bad"
            return _dropped(row, f"only {only} completions of a prompt", f"its prompt has only {only} completions, and none to compare")
        return _ordered(row, prompt, completions, [float(not flag) for flag in flags])
    ranks = values.get("ranks") or [-score for score in values.get("scores", ())]
    if len(ranks) != len(completions):
        counts = f"{len(ranks)} ranks or scores for {len(completions)} completions"
        return BadRow("other ranks than completions", f"{row.place}: {counts}; give one for each")
    return _ordered(row, prompt, completions, ranks)


def _ordered(row: Row, prompt: Turns, completions: Sequence[Turns], ranks: Sequence[float]) -> Preference | BadRow:
    """Return the preference with its completions from the best (lowest rank) to the worst, without repetitions; or the row's error."""
    if any(not completion or (isinstance(completion, str) and not completion.strip()) for completion in completions):
        return BadRow("an empty completion", f"{row.place}: a completion is empty; correct or remove the row", dropped=True)
    kept = [number for number, completion in enumerate(completions) if completion not in completions[:number]]
    if len(kept) < 2:
        kind = "less than two completions" if len(completions) < 2 else "equal completions"
        return _dropped(row, kind, "it has no two different completions, so none is better")
    if len({ranks[number] for number in kept}) < 2:
        return _dropped(row, "ties", "all completions are equally good, so none is better")
    order = sorted(kept, key=lambda number: ranks[number])
    levels = {value: level for level, value in enumerate(sorted({ranks[number] for number in order}))}
    return Preference(prompt, [completions[number] for number in order], [levels[ranks[number]] for number in order])


def _dropped(row: Row, kind: str, why: str) -> BadRow:
    return BadRow(kind, f"{row.place}: {why}; remove the row", dropped=True)


def _common_beginning(prompt: Turns, chosen: Turns, rejected: Turns) -> tuple[Turns, list[Turns]]:
    """Return prompt and completions. Of two conversations, the shared beginning is the prompt (of texts, up to its last ASSISTANT)."""
    if isinstance(chosen, list) and isinstance(rejected, list) and is_whole(chosen) and is_whole(rejected):
        most = min(len(chosen), len(rejected)) - 1
        same = next((n for n in range(most) if chosen[n] != rejected[n]), most)
        return chosen[:same], [chosen[same:], rejected[same:]]
    if isinstance(chosen, str) and isinstance(rejected, str) and is_dialogue(chosen) and is_dialogue(rejected):
        most = min(len(chosen), len(rejected))
        same = next((n for n in range(most) if chosen[n] != rejected[n]), most)
        begin = chosen.rfind(ASSISTANT, 0, same)
        if begin >= 0:
            begin += len(ASSISTANT)
            return chosen[:begin], [chosen[begin:], rejected[begin:]]
    return prompt, [chosen, rejected]


@dataclass(frozen=True)
class PreferenceEncoder:
    """Encodes and batches rows of preferences."""

    ids = IDS
    texts: ConversationTexts
    row_length: int

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        return digest("preferences", self.texts.fingerprint(), self.row_length)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return each row's concatenated sequences, a prompt and a completion each (input_ids), and their sizes, prompt sizes and ranks; or
        the row's error. Raises ModelError if a chat template is needed and there is none.
        """
        return self._encoded(rows, [read_preference(row) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return what `encode` returns, for rows with a prompt and one completion, or with a conversation that ends with a completion."""
        found = [split_prompt(row).values for row in rows]
        return self._encoded(rows, [Preference(values.get("prompt", ""), [values["completion"]], [0]) for values in found])

    def _encoded(self, rows: Sequence[Row], preferences: Sequence[Preference | BadRow]) -> list[Encoded | BadRow]:
        items = [
            PromptCompletion(row.place, preference.prompt, completion)
            for row, preference in zip(rows, preferences, strict=True)
            if isinstance(preference, Preference)
            for completion in preference.completions
        ]
        ids = iter(self.texts.encode(items))
        return [
            item if isinstance(item, BadRow) else self._example(row, item, [next(ids) for _ in item.completions])
            for row, item in zip(rows, preferences, strict=True)
        ]

    def _example(self, row: Row, preference: Preference, sequences: Sequence[PromptedIds | BadRow]) -> Encoded | BadRow:
        if bad := next((sequence for sequence in sequences if isinstance(sequence, BadRow)), None):
            return bad
        kept = [sequence for sequence in sequences if isinstance(sequence, PromptedIds)]
        longest = max(sequence.prompt for sequence in kept)
        if longest >= self.row_length:
            return BadRow(
                "a prompt that fills the context",
                f"{row.place}: the prompt has {longest:,} tokens, which leave no room for a completion in a row of "
                f"{self.row_length:,}; {LONGER_ROWS}, or remove the row",
                lost=True,
            )
        truncated = [sequence.ids[: self.row_length] for sequence in kept]
        arrays = {
            "input_ids": [token for ids in truncated for token in ids],
            "sizes": [len(ids) for ids in truncated],
            "prompts": [sequence.prompt for sequence in kept],
            "ranks": preference.ranks,
        }
        return Encoded(arrays, sum(map(len, truncated)), any(len(sequence.ids) > self.row_length for sequence in kept))

    def collate(self, rows: ExampleBatch, pad_id: int) -> Batch:
        """Return one sequence per completion, C in all, padded on the right, with labels (C, T): the id of the next position if it
        belongs to the completion, else IGNORED.

        `extras`: the `row` of each sequence (C,); the index of the `better` and of the `worse` sequence of each pair (P,), and `share`, the
        pair's weight in the mean of its prompt (P,); and, if stored, `reference`: the reference model's log-probability of each completion
        (C,).
        """
        examples = rows.single()
        sequences = [ids for example in examples for ids in np.split(example["input_ids"], np.cumsum(example["sizes"])[:-1])]
        prompts = np.concatenate([example["prompts"] for example in examples])
        labels = [_labels(ids, int(prompt)) for ids, prompt in zip(sequences, prompts, strict=True)]
        rows_of_sequences = [torch.full((len(example["sizes"]),), number) for number, example in enumerate(examples)]
        extras = {"row": torch.cat(rows_of_sequences), **_pairs(examples)}
        if "reference" in examples[0]:
            extras["reference"] = torch.from_numpy(np.concatenate([example["reference"] for example in examples]))
        return Batch(pad(sequences, pad_id), pad(labels, IGNORED), padding_mask=padding_mask(sequences), extras=extras)


def _labels(ids: NDArray[np.int32], prompt: int) -> NDArray[np.int64]:
    """Return the label of each position: the id of the next position if it belongs to the completion, else IGNORED."""
    labels = np.append(ids[1:], IGNORED).astype(np.int64)
    labels[: max(0, prompt - 1)] = IGNORED
    return labels


def _pairs(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return the pairs of all examples: the indices of their sequences in the batch, and each pair's weight in its prompt's mean."""
    pairs: list[tuple[int, int]] = []
    shares: list[float] = []
    begin = 0
    for example in examples:
        ranks = list(enumerate(example["ranks"].tolist(), begin))
        own = [(better, worse) for better, rank in ranks for worse, lower in ranks if rank < lower]
        pairs += own
        shares += [1 / len(own) for _ in own]
        begin += len(ranks)
    better, worse = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t().contiguous()
    return {"better": better, "worse": worse, "share": torch.tensor(shares, dtype=torch.float32)}


def prompts_in(batch: Batch) -> int:
    """Return the number of prompts of a batch."""
    return int(batch.extras["row"][-1]) + 1


def pair_rows(batch: Batch) -> Tensor:
    """Return the row index of each pair, (P,)."""
    return batch.extras["row"][batch.extras["better"]]


def differences(values: Tensor, batch: Batch) -> Tensor:
    """Return the margin of each pair, the better sequence's value minus the worse one's: values (C, ...) -> (P, ...)."""
    return values[batch.extras["better"]] - values[batch.extras["worse"]]


def calibration_metrics(margins: Sequence[Sequence[float]]) -> Scores:
    """Return a function from row weights to the expected calibration error (Guo et al. 2017, arXiv 1706.04599) of pairs, given the margins
    of each row (N lists).

    The confidence in a pair with margin m is sigmoid(|m|), which is in one of ten bins from 0.5 to 1. `calibration` is the mean over pairs
    of the distance between the mean confidence and the accuracy of their bin; NaN if a margin is not finite, or without pairs.
    """
    rows = np.repeat(np.arange(len(margins)), [len(row) for row in margins])
    values = np.array([value for row in margins for value in row], np.float64)
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(values), 700)))
    bins = np.minimum(_BINS - 1, ((confidence - 0.5) * 2 * _BINS).astype(np.int64)) if np.isfinite(values).all() else None
    right = rate_right(values)

    def scores(weights: Numbers) -> dict[str, float]:
        pair_weights = weights[rows]
        if bins is None or not pair_weights.sum():
            return {"calibration": math.nan}
        gaps = np.bincount(bins, pair_weights * (right - confidence), _BINS)  # (bins,): (accuracy - confidence) * the number of pairs
        return {"calibration": float(np.abs(gaps).sum() / pair_weights.sum())}

    return scores


def rate_right(margins: Numbers) -> Numbers:
    """Return 1 for each pair with a positive margin (the better completion scores higher), 0 for a negative, 0.5 for 0: (P,) -> (P,)."""
    return (np.sign(margins) + 1) / 2


def pair_losses(values: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Return -log sigmoid of each pair's margin, times its weight in the mean over its prompt's pairs: values (C,) -> (P,).

    With `smoothing` e a pair has the weight 1 - e, and the same pair in reverse order has the weight e (conservative DPO).
    """
    margins = differences(values, batch)
    losses = -F.logsigmoid(margins)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * F.logsigmoid(-margins)
    return losses * batch.extras["share"]


def pair_results(term: str, values: Tensor, batch: Batch, smoothing: float = 0.0) -> Iterator[RowResult]:
    """Yield the sums of each prompt, in which the loss is named `term`, and the margins of the prompt's pairs."""
    rows, margins = pair_rows(batch).cpu().numpy(), differences(values, batch).cpu().double().numpy()
    losses = pair_losses(values, batch, smoothing).cpu().double().numpy()
    right = rate_right(margins)
    for row in range(prompts_in(batch)):
        is_own = rows == row
        count = int(is_own.sum())
        sums = {
            term: Sum(float(losses[is_own].sum()), 1),
            "accuracy": Sum(float(right[is_own].sum()), count),
            "margin": Sum(float(margins[is_own].sum()), count),
        }
        yield RowResult(sums, {"margins": margins[is_own].tolist()})
