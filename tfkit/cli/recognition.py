"""A fine-tuning without a recipe: the recipe is made of what the data and the checkpoint show, printed, and then run as any other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfkit import console
from tfkit.adapters import describe
from tfkit.data.columns import Columns, Record
from tfkit.data.first_records import first_records
from tfkit.data.rows import Row
from tfkit.errors import UsageError
from tfkit.hub.names import on_meta
from tfkit.recipe import RecipeError
from tfkit.recipe.data_sections import SourceSection
from tfkit.recipe.dump import dump_document
from tfkit.recipe.objectives import ClassificationSection
from tfkit.recipe.overrides import apply_overrides
from tfkit.recipe.read import read_document, slug
from tfkit.recipe.schema import LENGTHS, Recipe
from tfkit.recipe.starting_points import HELD_OUT, starting_point
from tfkit.recipe.tasks import SECTIONS, Kind, Seen, Task, decide, few_values, unread_texts
from tfkit.recipe.tree import COMMAND_LINE, Mapping, plain
from tfkit.recipe.validate import problems_in
from tfkit.run.checkpoints import step_folders
from tfkit.run.folder import RunFolder
from tfkit.tokenizer.conversations import resolve_format

_TEXT = next(role for role in ClassificationSection.roles if role.name == "text")
_LABELLED = ("classification", "tagging", "multiple_choice", "text_to_text", "chat", "causal_lm")  # causal_lm: a text is there


@dataclass(frozen=True)
class Recognition:
    """A command line without a recipe: what is to be looked at, once the run folder is there and locked."""

    words: tuple[str, ...]  # all that it says, as key=value
    given: dict[str, Any]  # the same as a recipe in which the rest is missing
    source: SourceSection
    start: str

    @classmethod
    def of(cls, words: Sequence[str]) -> "Recognition":
        """Nothing is read yet; `words`: --from and --data too, as key=value. Raises UsageError where something is missing."""
        given = _given(words)
        sources = given.get("data", {}).get("train")
        if not (isinstance(sources, list) and sources):
            raise UsageError("what is to be learned? Give a RECIPE, or --data F")
        start = given.get("model", {}).get("from")
        if not isinstance(start, str):
            raise UsageError("which checkpoint? Give --from CKPT")
        return cls(tuple(words), given, _source(sources[0]), start)

    @property
    def run_name(self) -> str:
        """Of the checkpoint and the data."""
        return slug(f"{_model_name(self.start)}-{_data_name(self.source)}")

    def recipe(self, _: RunFolder) -> Recipe:
        """Make the recipe of what is seen, and print it. Raises UsageError where no task can be told, DataError and ModelError."""
        seen, model = _look(self.source, self.given["data"].get("on_bad_row", "error")), _kind(self.start)
        task = decide(seen, model, self.given.get("objective", {}))
        recipe, document = read_document(_document(task, model, self.given), "the recipe of what was seen", self.words)
        console.say(_header(seen, model, task) + dump_document(document))
        return recipe


def _given(words: Sequence[str]) -> dict[str, Any]:
    """What the command line says, as a recipe in which the rest is missing."""
    tree = Mapping(COMMAND_LINE)
    if problems := apply_overrides(tree, words):
        raise RecipeError(problems)
    said: dict[str, Any] = plain(tree)
    return {name: section for name, section in said.items() if isinstance(section, dict)}


def _source(values: Any) -> SourceSection:
    try:
        return SourceSection.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise RecipeError(problems_in(error, SourceSection, values, Mapping(COMMAND_LINE), ("data", "train", 0))) from None


def _look(section: SourceSection, on_bad_row: Any) -> Seen:
    """What the first rows of the source show. Raises DataError."""
    records = first_records(section, on_bad_row)
    columns = list(dict.fromkeys(name for record in records for name in record.values))
    named = section.columns | ({} if section.text is None else {"text": section.text})
    rows = {kind: _rows(kind, named, records) for kind in _LABELLED}
    fitting = {kind: found for kind, found in rows.items() if 2 * len(found) > len(records)}
    reads = {kind: Columns(SECTIONS[kind].roles, named).read_of(records[0].values) for kind in fitting}
    of_classes = reads.get("classification", {})
    unclear = "text" not in named and "pair" not in of_classes
    held = {name: [record.values.get(name) for record in records] for name in columns}
    beside = [name for name in columns if name != "text" and few_values(held[name])]
    return Seen(
        section.path or section.hub or f"stdlib: {section.stdlib}",
        tuple(columns),
        frozenset(fitting),
        len(records),
        labels=tuple(row.values["label"] for row in fitting.get("classification", ())),
        tags=tuple(tag for row in fitting.get("tagging", ()) for tag in row.values["tags"]),
        conversations=any("messages" in row.values for row in fitting.get("chat", ())),
        like_labels=tuple(beside),
        reads=reads,
        like_texts=tuple(name for name in columns if name in _TEXT.columns) if unclear and of_classes else (),
        unread={} if named else {kind: unread_texts(kind, reads[kind], held) for kind in fitting},
    )


def _rows(kind: str, named: dict[str, Any], records: Sequence[Record]) -> list[Row]:
    """The records that can be read as rows of an objective; none where the user named columns for what it does not read."""
    roles = SECTIONS[kind].roles
    if {*named} - {role.name for role in roles}:
        return []
    columns = Columns(roles, named)
    return [row for record in records if isinstance(row := columns.take(record), Row)]


def _kind(start: str) -> Kind:
    """What the checkpoint is, its weights unread. Raises ModelError."""
    described = describe(start)
    config, codec = described.config, described.codec
    both = config.encoder_layers and config.decoder_layers
    speaks = codec is not None
    if codec is not None:
        try:
            resolve_format("auto", codec, None)
        except UsageError:
            speaks = False
    return Kind(
        start,
        described.family,
        "both" if both else "encoder" if config.encoder_layers else "decoder",
        config.head.kind,
        sum(parameter.numel() for parameter in on_meta(config).parameters()),
        speaks,
        codec is not None and codec.backend.token_to_id("<extra_id_0>") is not None,
    )


def _document(task: Task, model: Kind, given: dict[str, Any]) -> dict[str, Any]:
    """The recipe without what the command line says itself, and without what would contradict that."""
    point = starting_point(task.objective["kind"], model.stacks)
    said = {name: given.get(name, {}) for name in ("data", "optimizer", "schedule", "training", "evaluation")}
    held_out = said["data"].get("validation", HELD_OUT)
    optimizer = {"kind": point.optimizer["kind"], "lr": point.lr(model.parameters), **point.optimizer}
    if said["optimizer"].get("kind", optimizer["kind"]) != optimizer["kind"]:
        optimizer = {"kind": said["optimizer"]["kind"], "lr": optimizer["lr"]}
    schedule = dict(point.schedule)
    if said["schedule"].get("kind", schedule["kind"]) == "noam" or {"warmup_steps", "warmup_tokens"} & said["schedule"].keys():
        schedule.pop("warmup_ratio", None)
    length = {} if any(said["training"].get(name) is not None for name in LENGTHS if name != "epochs") else {"epochs": point.epochs}
    judged = {"metric": task.metric} if task.metric else {}
    return {
        "model": {},
        "data": {"train": [], "validation": held_out},
        "objective": task.objective,
        "optimizer": optimizer,
        "schedule": schedule,
        "training": {**length, "batch_size": point.batch_size},
        "checkpoint": {"every": "epoch", "keep": 1} if held_out else {},
        "evaluation": {"every": "epoch", **judged} if held_out else {},
    }


def _header(seen: Seen, model: Kind, task: Task) -> str:
    """What was seen and decided, as the comment that a recipe begins with."""
    kind = task.objective["kind"]
    reads = ", ".join(f"{role} from {column!r}" for role, column in (seen.reads.get(kind) or seen.reads.get("causal_lm", {})).items())
    return (
        f"# {kind}: {task.because}.\n"
        f"# data   {seen.name}: {', '.join(seen.columns)}; {seen.rows:,} rows were looked at\n"
        + (f"# reads  {reads}\n" if reads else "")
        + f"# model  {model}\n"
        f"# as     {starting_point(kind, model.stacks).source}\n"
        "# Saved as a file, this is a recipe: tfkit finetune FILE\n"
    )


def _model_name(start: str) -> str:
    """The last part of a checkpoint's name, without a revision; of a checkpoint of a run the run's."""
    path = Path(start.removeprefix("hub:").partition("@")[0])
    if path.parent.name == "checkpoints" and path in step_folders(path.parent):
        path = path.resolve().parent.parent
    return path.name or path.resolve().name


def _data_name(section: SourceSection) -> str:
    """The last part of a source's name, of a file without its endings."""
    if section.path is None:
        return Path(section.hub).name if section.hub is not None else str(section.stdlib)
    path = Path(section.path)
    return path.resolve().name if path.is_dir() else Path(path.name.removesuffix(".gz").removesuffix(".zip")).stem
