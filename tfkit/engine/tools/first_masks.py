"""The attention masks of a batch in a form that people can check: which tokens each token sees, and why not the others."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from tfkit.engine.tools.shown_rows import ShownRow
from tfkit.model.config import ModelConfig
from tfkit.model.masks import Mask, encoder_output_mask
from tfkit.model.position import Positions
from tfkit.objectives.objective import Batch

SEEN, LATER, BEYOND, OTHER_DOCUMENT, PADDING = "#", ".", "w", "d", "p"
MEANINGS = {SEEN: "seen", LATER: "later", BEYOND: "beyond the window", OTHER_DOCUMENT: "another document", PADDING: "padding"}


@dataclass(frozen=True)
class ShownMask:
    """The mask of some layers for one row. `cells`: for each query a character for each key, whose meanings are MEANINGS."""

    place: str
    attention: Literal["encoder", "decoder", "cross"]
    layers: list[int]
    window: int | None
    queries: list[str]
    keys: list[str]
    cells: list[str]


def first_masks(batch: Batch, config: ModelConfig, rows: Sequence[tuple[str, ShownRow]]) -> list[ShownMask]:
    """Return the masks with which a model reads the rows, which are the first of the batch: one for each stack and distinct window."""
    return [mask for number, (place, row) in enumerate(rows) for mask in _masks_of_row(batch, config, number, place, row)]


def _masks_of_row(batch: Batch, config: ModelConfig, number: int, place: str, row: ShownRow) -> Iterator[ShownMask]:
    source_length, padding = batch.input_ids.shape[1], _row(batch.padding_mask, number)
    own = Positions(source_length, 0, batch.input_ids.device, padding, _row(batch.document_ids, number))
    names = [token.token for token in row.tokens][:source_length]  # a row of a language model may show one label more than it reads
    yield from _self_attention(config, "encoder", own, place, names)
    if batch.decoder_input_ids is None:
        yield from _self_attention(config, "decoder", own, place, names)  # none without a decoder
        return
    length = batch.decoder_input_ids.shape[1]
    target = ["start", *(token.token for token in row.target or row.tokens)][:length]  # a classifier's decoder reads the text itself
    positions = Positions(length, 0, batch.input_ids.device, _row(batch.decoder_padding_mask, number), None)
    yield from _self_attention(config, "decoder", positions, place, target)
    visible = encoder_output_mask(padding)
    keys = SEEN * source_length if visible is None else "".join(SEEN if one else PADDING for one in visible.flatten().tolist())
    yield ShownMask(place, "cross", [*range(config.decoder_layers)], None, target, names, [keys] * length)


def _row(tensor: Tensor | None, number: int) -> Tensor | None:
    return None if tensor is None else tensor[number : number + 1]


def _self_attention(
    config: ModelConfig, stack: Literal["encoder", "decoder"], positions: Positions, place: str, names: list[str]
) -> Iterator[ShownMask]:
    """Yield a mask for each distinct window of the stack's layers."""
    by_window: dict[int | None, list[int]] = defaultdict(list)
    for layer in range(config.encoder_layers if stack == "encoder" else config.decoder_layers):
        by_window[config.window(layer)].append(layer)
    for window, layers in by_window.items():
        yield ShownMask(place, stack, layers, window, names, names, _cells(Mask(positions, stack == "decoder", window)))


def _cells(mask: Mask) -> list[str]:
    """Return the mask as the model computes it, with the reason for which each hidden key is hidden: the last in this order that holds."""
    length, padding, documents = mask.positions.length, mask.positions.padding_mask, mask.positions.document_ids
    cells = np.full((length, length), BEYOND)
    if mask.causal:
        cells[np.triu_indices(length, 1)] = LATER
    if documents is not None:
        cells[(documents[0][:, None] != documents[0][None, :]).numpy()] = OTHER_DOCUMENT
    if padding is not None:
        cells[:, ~padding[0].numpy()] = PADDING
    cells[mask.dense()[0, 0].numpy()] = SEEN
    return ["".join(row) for row in cells]
