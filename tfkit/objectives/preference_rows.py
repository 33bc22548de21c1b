"""Rows of preferences: a prompt and its completions, from the best to the worst, of whichever form the row has.

An example holds the sequences of all completions one after the other, each with its prompt, and the rank of each: 0 is the best, equal
ranks are a tie. A pair is two completions of a prompt of which one is better.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, Example, ExampleBatch, Row
from tfkit.data.columns.preference_forms import ASSISTANT, is_dialogue, is_whole, read_flag
from tfkit.data.columns.rows import BadRow
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.context import LONGER_ROWS
from tfkit.objectives.conversation_texts import Asked, ConversationTexts, PromptedIds, Turns
from tfkit.objectives.objective import IGNORED, Batch

IDS = ("input_ids",)


class Preference(NamedTuple):
    """A prompt, its completions from the best to the worst, and the rank of each."""

    prompt: Turns
    completions: list[Turns]
    ranks: list[int]


def read_preference(row: Row) -> Preference | BadRow:
    """Return the preference of a row of any form, or what is wrong with it."""
    values = row.values
    prompt: Turns = values.get("prompt", "")
    if "chosen" in values:
        prompt, completions = _common_beginning(prompt, values["chosen"], values["rejected"])
        return _ordered(row, prompt, completions, [0.0, 1.0])
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
        found = f"{len(ranks)} ranks or scores for {len(completions)} completions"
        return BadRow("other ranks than completions", f"{row.place}: {found}; give one for each")
    return _ordered(row, prompt, completions, ranks)


def _ordered(row: Row, prompt: Turns, completions: Sequence[Turns], ranks: Sequence[float]) -> Preference | BadRow:
    """The completions from the best to the worst; of equal ones the first alone."""
    if any(not completion or (isinstance(completion, str) and not completion.strip()) for completion in completions):
        return BadRow("an empty completion", f"{row.place}: a completion is empty; correct or remove the row")
    kept = [number for number, one in enumerate(completions) if one not in completions[:number]]
    if len(kept) < 2:
        what = "less than two completions" if len(completions) < 2 else "equal completions"
        return _dropped(row, what, "it has no two different completions, so none is better")
    if len({ranks[number] for number in kept}) < 2:
        return _dropped(row, "ties", "all completions are equally good, so none is better")
    order = sorted(kept, key=lambda number: ranks[number])
    levels = {value: place for place, value in enumerate(sorted({ranks[number] for number in order}))}
    return Preference(prompt, [completions[number] for number in order], [levels[ranks[number]] for number in order])


def _dropped(row: Row, kind: str, why: str) -> BadRow:
    return BadRow(kind, f"{row.place}: {why}; remove the row", dropped=True)


def _common_beginning(prompt: Turns, chosen: Turns, rejected: Turns) -> tuple[Turns, list[Turns]]:
    """The prompt and the two completions: where both are whole conversations, their common beginning is the prompt."""
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
    """Encodes rows of preferences for a model, and makes batches of them."""

    texts: ConversationTexts
    row_length: int

    def fingerprint(self) -> str:
        """Return a hash of what `encode` depends on."""
        return hashlib.blake2b(f"preferences\0{self.texts.fingerprint()}\0{self.row_length}".encode(), digest_size=16).hexdigest()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return input_ids of all sequences; for each its size, that of its prompt, and its rank. Raises ModelError without a template."""
        return self._encoded(rows, [read_preference(row) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the same of a prompt with one completion."""
        return self._encoded(rows, [Preference(row.values.get("prompt", ""), [row.values["completion"]], [0]) for row in rows])

    def _encoded(self, rows: Sequence[Row], found: Sequence[Preference | BadRow]) -> list[Encoded | BadRow]:
        asked = [
            Asked(row.place, one.prompt, completion)
            for row, one in zip(rows, found, strict=True)
            if isinstance(one, Preference)
            for completion in one.completions
        ]
        ids = iter(self.texts.encode(asked))
        return [
            one if isinstance(one, BadRow) else self._example(row, one, [next(ids) for _ in one.completions])
            for row, one in zip(rows, found, strict=True)
        ]

    def _example(self, row: Row, one: Preference, sequences: Sequence[PromptedIds | BadRow]) -> Encoded | BadRow:
        kept: list[PromptedIds] = []
        for sequence in sequences:
            if isinstance(sequence, BadRow):
                return sequence
            kept.append(sequence)
        longest = max(sequence.prompt for sequence in kept)
        if longest >= self.row_length:
            return BadRow(
                "a prompt that fills the context",
                f"{row.place}: the prompt has {longest:,} tokens, which leave no room for a completion in a row of "
                f"{self.row_length:,}; {LONGER_ROWS}, or remove the row",
                lost=True,
            )
        cut = [sequence.ids[: self.row_length] for sequence in kept]
        arrays = {
            "input_ids": [number for ids in cut for number in ids],
            "sizes": [len(ids) for ids in cut],
            "prompts": [sequence.prompt for sequence in kept],
            "ranks": one.ranks,
        }
        return Encoded(arrays, sum(map(len, cut)), any(len(sequence.ids) > self.row_length for sequence in kept))

    def collate(self, rows: ExampleBatch, pad_id: int) -> Batch:
        """A sequence for each completion of each prompt, C in all, padded on the right: labels (C, T) are the ids of its completion one
        position on.

        In `extras`: the row that a sequence belongs to, (C,); the better and the worse sequence of each pair, (P,), and the share of a
        pair in the loss of its prompt, (P,); and, where the reference has read them, its log-probability of each completion, (C,).
        """
        examples = rows.single()
        sequences = [ids for one in examples for ids in np.split(one["input_ids"], np.cumsum(one["sizes"])[:-1])]
        prompts = np.concatenate([one["prompts"] for one in examples])
        labels = [_labels(ids, int(prompt)) for ids, prompt in zip(sequences, prompts, strict=True)]
        extras = {"row": torch.cat([torch.full((len(one["sizes"]),), number) for number, one in enumerate(examples)]), **_pairs(examples)}
        if "reference" in examples[0]:
            extras["reference"] = torch.from_numpy(np.concatenate([one["reference"] for one in examples]))
        return Batch(pad(sequences, pad_id), pad(labels, IGNORED), padding_mask=padding_mask(sequences), extras=extras)


def _labels(ids: NDArray[np.int32], prompt: int) -> NDArray[np.int64]:
    """The ids one position on, where these are the completion's."""
    labels = np.append(ids[1:], IGNORED).astype(np.int64)
    labels[: max(0, prompt - 1)] = IGNORED
    return labels


def _pairs(examples: Sequence[Example]) -> dict[str, Tensor]:
    """The pairs of all examples, by the places of their sequences in the batch."""
    better: list[int] = []
    worse: list[int] = []
    shares: list[float] = []
    begin = 0
    for one in examples:
        ranks = one["ranks"].tolist()
        pairs = [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
        better += [begin + i for i, _ in pairs]
        worse += [begin + j for _, j in pairs]
        shares += [1 / len(pairs) for _ in pairs]
        begin += len(ranks)
    return {
        "better": torch.tensor(better, dtype=torch.long),
        "worse": torch.tensor(worse, dtype=torch.long),
        "share": torch.tensor(shares, dtype=torch.float32),
    }


def prompts_in(batch: Batch) -> int:
    """Return the number of prompts of a batch."""
    return int(batch.extras["row"][-1]) + 1


def pair_rows(batch: Batch) -> Tensor:
    """Return the row of each pair, (P,)."""
    return batch.extras["row"][batch.extras["better"]]


def differences(values: Tensor, batch: Batch) -> Tensor:
    """Return by how much each pair's better sequence exceeds the worse one: values (C,) -> (P,)."""
    return values[batch.extras["better"]] - values[batch.extras["worse"]]
