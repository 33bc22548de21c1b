"""Show the first rows of the first step of a training as the model will see them, and their attention masks.

A mask shows to which tokens each token attends, and for every other token the reason why it is hidden.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from tfkit.data import ExampleRows, Loader
from tfkit.engine.assembly.components import batch_sizes
from tfkit.engine.assembly.training_data import TrainingData, prepare_data
from tfkit.engine.inference.session import Session
from tfkit.errors import DataError
from tfkit.model.config import ModelConfig
from tfkit.model.masks import Mask, Positions, encoder_output_mask
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.registry import row_order
from tfkit.recipe.schema.sections import Recipe
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer import readable_entry
from tfkit.training.device import pick_device

SEEN, LATER, BEYOND, OTHER_DOCUMENT, PADDING = "#", ".", "w", "d", "p"
MEANINGS = {SEEN: "seen", LATER: "later", BEYOND: "beyond the window", OTHER_DOCUMENT: "another document", PADDING: "padding"}
Kind = Literal["loss", "no loss", "padding"]


@dataclass(frozen=True)
class ShownToken:
    """The token at a position. `label`: the target, such as a class; None if it is the token itself, or if there is no loss."""

    id: int
    token: str  # the entry of the vocabulary
    kind: Kind
    label: str | None = None
    document: int = 0  # index of the token's document in a packed row


@dataclass
class ShownRow:
    """One sequence of a batch. `target`: the tokens that an encoder-decoder learns to write; `facts`: other values, such as `label`."""

    tokens: list[ShownToken]
    target: list[ShownToken] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> int:
        """The number of positions with a loss."""
        return sum(token.kind == "loss" for token in (*self.tokens, *(self.target or ())))


class Reader:
    """Converts batches into `ShownRow`s, for which it needs a tokenizer, the kind of the model's head, and the classes or tags."""

    def __init__(self, tokenizer: Tokenizer, head: str, labels: Sequence[str]):
        self.tokenizer, self.head, self.labels = tokenizer, head, labels

    def row(self, batch: Batch, index: int) -> ShownRow:
        """Return sequence `index` of the batch; in multiple choice, each answer is a separate sequence."""
        ids = batch.input_ids[index].tolist()
        real = [True] * len(ids) if batch.padding_mask is None else batch.padding_mask[index].tolist()
        documents = [0] * len(ids) if batch.document_ids is None else batch.document_ids[index].tolist()
        has_labels = batch.labels.dim() == 2 and not self._is_multi_label(batch) and len(batch.labels) > index
        labels = batch.labels[index].tolist() if has_labels else None
        read = zip(ids, real, documents, strict=True)
        row = ShownRow([self._token(token, "no loss" if is_real else "padding", document) for token, is_real, document in read])
        if batch.decoder_input_ids is not None and labels is not None:
            row.target = [self._token(label, "padding" if label == IGNORED else "loss") for label in labels]
        elif labels is not None and self.head == "lm":
            row.tokens = self._shifted(row.tokens, labels)
        elif labels is not None and self.head == "spans":
            (first, last), answer = labels, "answer" if labels[1] else "no answer"  # without an answer, the first token is the span
            places = enumerate(row.tokens)
            row.tokens = [replace(token, kind="loss", label=answer) if first <= n <= last else token for n, token in places]
        elif labels is not None:
            name = self._entry if self.head == "masked_lm" else self._label
            pairs = zip(row.tokens, labels, strict=True)
            row.tokens = [token if label == IGNORED else replace(token, kind="loss", label=name(label)) for token, label in pairs]
        row.facts = self._facts(batch, index)
        return row

    def _shifted(self, tokens: list[ShownToken], labels: list[int]) -> list[ShownToken]:
        """Return the tokens of a language model's row, where a token has a loss if it is the label of the position before it.

        The label of the last position, if any, is appended, since the row does not have this token.
        """
        shown = tokens[:1]
        for token, label in zip(tokens[1:], labels, strict=False):
            has_loss = label == token.id and token.kind != "padding"
            shown.append(self._token(token.id, "loss" if has_loss else token.kind, token.document))
        if labels[-1] != IGNORED:
            shown.append(self._token(labels[-1], "loss", tokens[-1].document))
        return shown

    def _facts(self, batch: Batch, index: int) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if batch.labels.dim() == 1 and len(batch.labels) == len(batch.input_ids):
            value = batch.labels[index]
            facts["label"] = float(str(np.float32(value.item()))) if value.is_floating_point() else self._label(int(value))
        if self._is_multi_label(batch):
            facts["labels"] = [self._label(place) for place, applies in enumerate(batch.labels[index].tolist()) if applies]
        for name, tensor in sorted(batch.extras.items()):
            if isinstance(tensor, Tensor) and tensor.dim() == 1 and len(tensor) == len(batch.input_ids):
                facts[name] = tensor[index].item()
        return facts

    def _is_multi_label(self, batch: Batch) -> bool:
        """Whether each row of `batch.labels` has a 0 or a 1 for every class, because several classes may apply to a text."""
        return batch.labels.dim() == 2 and batch.labels.is_floating_point()

    def _label(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else str(index)

    def _token(self, token_id: int, kind: Kind, document: int = 0) -> ShownToken:
        return ShownToken(token_id, self._entry(token_id), kind, None, document)

    def _entry(self, token_id: int) -> str:
        return "" if token_id == IGNORED else readable_entry(self.tokenizer, token_id)


@dataclass(frozen=True)
class ShownMask:
    """The attention mask of a row, in the `layers` that share it."""

    place: str  # the place of the row, such as its file and line
    attention: Literal["encoder", "decoder", "cross"]
    layers: list[int]
    window: int | None  # the attention window in tokens; None: no window
    queries: list[str]  # the tokens that attend
    keys: list[str]  # the tokens that may be attended to
    cells: list[str]  # a string for each query, with a character for each key, whose meaning is in MEANINGS


def _masks_of_row(batch: Batch, config: ModelConfig, index: int, place: str, row: ShownRow) -> Iterator[ShownMask]:
    """Yield the masks for a row of the batch: one for each stack and distinct window and, with two stacks, one for cross-attention."""
    source_length, padding = batch.input_ids.shape[1], _row(batch.padding_mask, index)
    own = Positions(source_length, 0, batch.input_ids.device, padding, _row(batch.document_ids, index))
    names = [token.token for token in row.tokens][:source_length]  # a language model does not read its last label
    yield from _self_attention(config, "encoder", own, place, names)
    if batch.decoder_input_ids is None:
        yield from _self_attention(config, "decoder", own, place, names)  # yields nothing for a model without a decoder
        return
    length = batch.decoder_input_ids.shape[1]
    target = ["start", *(token.token for token in row.target or row.tokens)][:length]  # both stacks of a classifier read the text
    positions = Positions(length, 0, batch.input_ids.device, _row(batch.decoder_padding_mask, index), None)
    yield from _self_attention(config, "decoder", positions, place, target)
    visible = encoder_output_mask(padding)
    keys = SEEN * source_length if visible is None else "".join(SEEN if one else PADDING for one in visible.flatten().tolist())
    yield ShownMask(place, "cross", [*range(config.decoder_layers)], None, target, names, [keys] * length)


def _row(tensor: Tensor | None, index: int) -> Tensor | None:
    return None if tensor is None else tensor[index : index + 1]


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
    """Return a mask as `ShownMask.cells`. The reason for a hidden key is the first that applies of padding, document, order and window."""
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


@dataclass(frozen=True)
class Inspection:
    """The first rows of the first step, and the totals of that step. If responses are sampled, each row is a prompt."""

    objective: str
    labels: list[str]
    legend: list[str]  # notes on how to read the rows
    rows: list[tuple[str, ShownRow]]  # each with its place, such as the file and line that it is from
    totals: dict[str, Any]  # rows, tokens and targets (their number for each term of the loss) of the whole step; and rows_an_epoch
    readings: int = 1  # how often an epoch trains on each row or, if responses are sampled, on responses to each prompt
    masks: list[ShownMask] | None = None  # the masks of the rows; None if they were not requested

    def to_dict(self) -> dict[str, Any]:
        """Return the document of --json."""
        return {
            "schema_version": 1,
            "objective": self.objective,
            "labels": self.labels,
            "first_step": self.totals,
            "rows": [
                {
                    "place": place,
                    "tokens": [asdict(token) for token in row.tokens],
                    "target": None if row.target is None else [asdict(token) for token in row.target],
                    **row.facts,
                }
                for place, row in self.rows
            ],
            "masks": None if self.masks is None else [asdict(mask) for mask in self.masks],
        }


def inspect_first_step(recipe: Recipe, count: int, session: Session, *, masks: bool = False) -> Inspection:
    """Return up to `count` rows of the first step, padded to the same length; if `masks` is set, also their attention masks.

    Text is tokenized as for the training, which will find it in the cache. If there are too few rows to hold a part of them out, a training
    raises an error; here none are held out, and the listener is warned.
    """
    try:
        data = _prepared(recipe, session)
    except DataError as error:
        if not isinstance(recipe.data.validation, float):
            raise
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": None})})
        data = _prepared(recipe, session)  # fails again if the error has another cause
        session.listener.warn(f"{error}; here all rows are shown")
    with session.stop.at_once():
        return first_rows(recipe, data, count, masks=masks)


def _prepared(recipe: Recipe, session: Session) -> TrainingData:
    return prepare_data(recipe, pick_device(session.device), session.listener, session.stop, session.meter, None)


def first_rows(recipe: Recipe, data: TrainingData, count: int, *, masks: bool = False) -> Inspection:
    """Return up to `count` rows of the first step of a training on the prepared `data`; see `inspect_first_step`."""
    objective, rollouts = data.objective, data.objective.rollouts
    rows = objective.open_rows(data.train, row_order(recipe, data.config))
    size = batch_sizes(recipe, rows).size(0) if rollouts is None else rollouts.section.prompts  # rows, or prompts of an iteration
    loader = Loader(rows, data.objective.collate, size, 1)
    count = min(count, size)
    places = [rows.place(index) if isinstance(rows, ExampleRows) else f"row {index}" for index in loader.numbers(0).tolist()[:count]]
    batch = data.objective.collate(rows.gather(loader.epochs(0)[:count], loader.numbers(0)[:count]))
    reader = Reader(data.tokenizer, data.config.head.kind, data.labels)
    shown = [reader.row(batch, index) for index in range(len(batch.input_ids))]
    owners = batch.extras["row"].tolist() if "row" in batch.extras else [place * count // len(shown) for place in range(len(shown))]
    sequence_name = "window" if data.config.head.kind == "spans" else "choice"  # the name of a sequence, if a row has several
    named = []
    for i, (owner, row) in enumerate(zip(owners, shown, strict=True)):
        name = f", {sequence_name} {i - owners.index(owner)}" if owners.count(owner) > 1 else ""
        named.append((places[owner] + name, row))
    step = loader.step(0)
    targets: Counter[str] = Counter()
    for micro_batch in step:
        targets.update(data.objective.counts(micro_batch))
    tokens = sum(micro_batch.tokens for micro_batch in step)
    totals = {"rows": size, "tokens": tokens, "targets": dict(targets), "rows_an_epoch": len(rows)}
    readings = rollouts.readings if rollouts is not None else 1
    drawn = [mask for i, (place, row) in enumerate(named) for mask in _masks_of_row(batch, data.config, i, place, row)] if masks else None
    return Inspection(recipe.objective.kind, data.labels, data.objective.legend(), named, totals, readings, drawn)
