"""Vectors for the texts of rows, for tfkit embed; loaded.embed computes vectors of texts in the same way."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkit.data import Encoded
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.sources.prediction_rows import PredictionColumns
from tfkit.engine.inference.row_answers import RowAnswers
from tfkit.engine.inference.session import named_precision
from tfkit.engine.request.evaluation_settings import EvaluationSettings, read_settings
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.errors import UsageError, argument
from tfkit.evaluation.embeddings import embed_ids
from tfkit.generation.answer_precision import Precision
from tfkit.hub import find_checkpoint
from tfkit.objectives.text_pairs import encode_texts
from tfkit.recipe.reading.overrides import Overrides, within_sections
from tfkit.recipe.reading.tree import flatten
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.roles import TEXT, Role

_SECTIONS = ("data", "evaluation", "carbon")


class Embedder(RowAnswers):
    """Answers rows with the vectors of their texts. `field`: the column of the text, if the user named one; else None."""

    name = "embedding"

    def __init__(self, checkpoint: str | Path, folder: Path, settings: EvaluationSettings, precision: Precision, *, field: str | None):
        super().__init__(checkpoint, folder, settings, precision)
        self.field, self.role = field, _text_role(settings.objective.trained_for)

    def columns(self, named: Mapping[str, str | list[str]]) -> PredictionColumns:
        """Return the column of the text: the one that `named` gives, else the column of the texts on which the model was trained."""
        read = TEXT[0] if "text" in named else self.role
        own = {read.name: named[read.name]} if read.name in named else {}
        return PredictionColumns((read,), own, option=argument("field"), takes_lines=self.field in (None, "text"))

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the token ids of each text, truncated to the context or to data.sequence_length; a BadRow for a text without a token."""
        context, tokenizer = self.loaded.config.context_length, self.loaded.require_tokenizer()
        texts = encode_texts(tokenizer, [(row.text, None) for row in rows], min(context, self.settings.sequence_length or context))
        return [
            Encoded({"input_ids": text.ids}, len(text.ids), text.truncated)
            if text.ids
            else BadRow("no tokens", f"{row.place}: the text gives no token, and has no vector; remove the row")
            for row, text in zip(rows, texts, strict=True)
        ]

    def answer(self, rows: Sequence[Any], encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
        """Return for each text the field `embedding`: its vector, (dim,)."""
        ids, tokenizer = [[*one.arrays["input_ids"]] for one in encoded], self.loaded.require_tokenizer()
        vectors = embed_ids(self.loaded.model, tokenizer, ids, self.settings.evaluation.batch_size, self.deal)
        return [{"embedding": vector} for vector in vectors]

    def facts(self) -> dict[str, Any]:
        """Return the field of the result that only `tfkit embed` has: the length of a vector."""
        return {"dim": self.loaded.config.dim}


def open_embedder(
    checkpoint: str | Path, overrides: Overrides, data: str, *, field: str | None, needs_all: bool, precision: Precision
) -> Embedder:
    """Return an Embedder, for which no model is loaded yet. Raises UsageError for invalid settings.

    `field`: the column of the text; None: the one that the checkpoint was trained on, else `text`. `needs_all`: every row needs a vector,
    so data.on_bad_row must not be skip. `precision`: auto means evaluation.precision if the overrides set it, else float32.
    """
    finalize_killed_run(checkpoint)
    folder = find_checkpoint(checkpoint)
    settings = read_settings(None, folder, within_sections({"data.validation.0.files": "all"}, overrides), _SECTIONS, data)
    assert settings.data is not None  # since the argument `data` names a source
    if needs_all and settings.data.on_bad_row == "skip":
        raise UsageError(
            f"data.on_bad_row=skip: a row without a vector has no place in the file of {argument('out')}; leave {argument('out')} "
            "out, for JSON lines"
        )
    update: dict[str, Any] = {}
    if "data.sequence_length" not in flatten(dict(overrides)):  # the length that the training run chose does not limit these texts
        update["sequence_length"] = None
    if field is not None:
        assert isinstance(settings.data.validation, list)
        update["validation"] = [one.model_copy(update={"columns": {"text": field}, "text": None}) for one in settings.data.validation]
    settings = replace(settings, data=settings.data.model_copy(update=update))
    chosen = named_precision(settings, overrides, precision)
    return Embedder(checkpoint, folder, settings, "float32" if chosen == "auto" else chosen, field=field)


def _text_role(section: ObjectiveSection) -> Role:
    """Return the role (kind of column) to embed: the objective's first required text, else TEXT. Its column may also be named `text`."""
    role = next((role for role in section.asked_roles if role.form == "text" and role.required and role.shape is None), TEXT[0])
    return role._replace(columns=tuple(dict.fromkeys((*role.columns, "text"))))
