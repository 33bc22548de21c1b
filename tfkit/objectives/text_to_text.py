"""Text to text: the encoder reads the source, the decoder writes the target (Sutskever et al. 2014; T5's form of every task).

The source is encoded by the tokenizer's template. A target is encoded as its ids and one eos, and read by the decoder shifted right. If
a model's generated texts are forced to begin with a token (BART's bos, mBART-50's language), each target begins with that token, too.
"""

from collections.abc import Sequence

from tfkit.data import Encoded, Example, ExampleBatch, Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.labelled import RowResult, WritingObjective, not_blank
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.sequence_to_sequence import TokenTargets, shifted_right
from tfkit.objectives.text_pairs import TextIds, encode_texts
from tfkit.recipe.schema.objective_sections import TextToTextSection
from tfkit.tokenizer import Tokenizer


class TextToText(TokenTargets, WritingObjective):
    """Cross-entropy over the target ids, including eos, with optional label smoothing."""

    ids = ("source", "target")
    start_id: int  # the id of bos or pad, which the decoder reads first

    def __init__(self, section: TextToTextSection, tokenizer: Tokenizer, row_length: int):
        """Sources and targets are truncated to `row_length` ids each. Raises ModelError if the tokenizer has no eos or no start token."""
        self.smoothing, self.tokenizer, self.row_length = section.label_smoothing, tokenizer, row_length
        if tokenizer.eos_id is None:
            raise ModelError("text to text needs an end-of-text token, or no target would ever end, and the tokenizer has none")
        if tokenizer.start_id is None:
            raise ModelError("text to text needs a start token, bos or pad, and the tokenizer has none")
        self.eos_id, self.start_id = tokenizer.eos_id, tokenizer.start_id

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        return digest("text_to_text", self.tokenizer.fingerprint(), self.row_length, *self.tokenizer.forced_ids)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the ids of each row's source and target, or the row's error. Of several targets of a row, the first is encoded."""
        sources = encode_texts(self.tokenizer, [(row.values["source"], None) for row in rows], self.row_length)
        targets = self.tokenizer.encode_bare([row.values["target"][0] if row.values["target"] else "" for row in rows])
        return [self._example(row, source, target.tolist()) for row, source, target in zip(rows, sources, targets, strict=True)]

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the ids of each row's source, and a target of eos alone; or the row's error."""
        sources = encode_texts(self.tokenizer, [(row.values["source"], None) for row in rows], self.row_length)
        return [
            _empty(row, "source")
            if self._is_empty(source)
            else Encoded({"source": source.ids, "target": [self.eos_id]}, len(source.ids), source.truncated)
            for row, source in zip(rows, sources, strict=True)
        ]

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return sources (B, T) and labels (B, T'), padded on the right. The padding masks follow from lengths, never from ids."""
        examples = rows.single()
        sources, targets = [example["source"] for example in examples], [example["target"] for example in examples]
        padding = self.tokenizer.pad_id or 0
        return Batch(
            pad(sources, padding),
            pad(targets, IGNORED),
            padding_mask=padding_mask(sources),
            decoder_input_ids=shifted_right(pad(targets, padding), self.start_id),
            decoder_padding_mask=padding_mask(targets),
        )

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids of the source."""
        ids: list[int] = example["source"].tolist()
        return ids

    def references(self, row: Row, example: Example) -> list[str]:
        """Return the row's targets that are not blank or, if all are, the first one."""
        return not_blank(row.values["target"])

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: an empty text, which counts as a wrong answer."""
        return RowResult({}, {"text": "", "references": not_blank(row.values["target"])})

    def _is_empty(self, source: TextIds) -> bool:
        return len(source.ids) == len(self.tokenizer.prefix) + len(self.tokenizer.suffix)

    def _example(self, row: Row, source: TextIds, target: list[int]) -> Encoded | BadRow:
        if not target or self._is_empty(source):
            return _empty(row, "source" if target else "target")  # an empty target is no reference: an evaluation skips its row
        if self.eos_id in target:
            end = self.tokenizer.backend.id_to_token(self.eos_id)
            return BadRow(
                "an end within a target", f"{row.place}: the text of the target contains {end!r}, which ends a target; remove it", lost=True
            )
        ids = [*[*self.tokenizer.forced_ids, *target][: self.row_length - 1], self.eos_id]
        truncated = source.truncated or len(self.tokenizer.forced_ids) + len(target) >= self.row_length
        unread = max(0, len(row.values["target"]) - 1)
        return Encoded({"source": source.ids, "target": ids}, len(source.ids) + len(ids), truncated, unread)


def _empty(row: Row, role: str) -> BadRow:
    return BadRow(f"empty {role}", f"{row.place}: the {role} has no text; correct or remove the row", lost=role == "source")
