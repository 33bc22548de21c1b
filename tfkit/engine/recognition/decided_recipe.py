"""The recipe of a fine-tuning without a user's recipe: it is made from the data and the checkpoint, and run like any other."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfkit.adapters import describe
from tfkit.data.columns.column_names import MISSING, columns_of, look_up, value_of
from tfkit.data.columns.forms import texts_of
from tfkit.data.columns.preference_forms import read_flag, vote_columns
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import FIRST_ROWS, Row
from tfkit.data.sources.parallel_files import read_class_names
from tfkit.data.sources.prediction_rows import all_records, first_records
from tfkit.engine.recognition.decided_size import RowTokens, Size, decide_size, row_tokens
from tfkit.errors import DataError, UsageError, argument
from tfkit.model.transformer import on_meta
from tfkit.recipe import RecipeError, ResolvedRecipe
from tfkit.recipe.column_forms import (
    Named,
    choice_columns,
    find_label_sets,
    flag_columns,
    instructed,
    languages_in,
    translation,
    unread_texts,
)
from tfkit.recipe.dump import comment_of
from tfkit.recipe.reading import tree
from tfkit.recipe.reading.overrides import Overrides, followed_by
from tfkit.recipe.reading.parse import MAX_DEPTH
from tfkit.recipe.reading.read import check_tree, read_document
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.sections import LENGTHS
from tfkit.recipe.starting_points import DECISIONS, ENOUGH_CHARACTERS, ENOUGH_ROWS, MANY_ROWS
from tfkit.recipe.tasks import FURTHER_TEXT, DataSummary, ModelSummary, RowCounts, Task, decide
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.conversations import resolve_format
from tfkit.training.memory import activation_bytes_per_token

_TEXT = next(role for role in ClassificationSection.roles if role.name == "text")
_DECIDED = "the inferred recipe"  # in messages, in place of the path of a recipe file
_SAMPLE = 200  # number of rows whose tokens are counted
_ANSWERS = ("label", "labels", "tags")  # roles whose values are not part of the model's input
# The objectives that are tried on the rows: those with an answer in each row, and causal_lm for plain text.
_KINDS = ("classification", "multi_label", "tagging", "question_answering", "multiple_choice", "text_to_text", "chat", "dpo", "causal_lm")


def decide_recipe(source: SourceSection, start: str, overrides: Overrides, given: dict[str, Any]) -> ResolvedRecipe:
    """Return the recipe for the data `source` and the checkpoint `start`. `given`: the overrides as an incomplete recipe.

    Raises UsageError if no task fits, and DataError or ModelError if the data or the checkpoint cannot be read.
    """
    _check_given(given)
    seen = _inspect_data(source, given["data"].get("on_bad_row", "error"))
    model, codec = _inspect_model(start)
    task = decide(seen, model, given.get("objective", {}))
    kind = task.objective["kind"]
    reads = seen.reads.get(kind) or seen.reads.get("causal_lm", {})
    tokens = _row_tokens(source, [column for role, column in reads.items() if role not in _ANSWERS], codec)
    size = decide_size(seen.counts, model, kind, given, tokens)
    changes = followed_by(overrides, _named_columns(seen.named.get("dpo" if kind == "reward" else kind), given))
    return _fitting_recipe(_document(task, size, given), changes, _header(seen, model, task, size))


def _check_given(given: dict[str, Any]) -> None:
    """Raise RecipeError for an invalid value in the sections that are read before the recipe is made.

    Each value is checked alone. `_fitting_recipe` checks whether values fit each other and the objective.
    """
    training, kind = {"steps": 1} | given.get("training", {}), given.get("objective", {}).get("kind", "causal_lm")
    document = {"model": {"from": ""}, "data": given["data"], "objective": {"kind": kind}, "training": training}
    root = tree.tree_of(document, MAX_DEPTH)
    assert isinstance(root, tree.Mapping)
    _, problems = check_tree(root, across=False)
    single = [one for one in problems if one.path == ("objective", "kind") or (len(one.path) > 1 and one.path[0] in ("data", "training"))]
    if single:
        raise RecipeError(single)


def _inspect_data(section: SourceSection, on_bad_row: Any) -> DataSummary:
    """Summarize the first rows of the source. Raises DataError if they cannot be read, or if none has a column that the user names."""
    records = first_records(section, on_bad_row)
    held = _values(_column_names(records), records)
    named = section.columns | ({} if section.text is None else {"text": section.text})
    _check_named(section, named, records, held)
    found = {} if named else _recognised_columns(section.path or "", held)
    given = dict.fromkeys(_KINDS, named) | found
    class_names = read_class_names(section.class_names)
    rows = {kind: _rows(kind, given[kind], records, class_names) for kind in _KINDS}
    if not (named or found["text_to_text"]) and len(languages_in(held)) > 2:  # it is not clear which language is translated to which
        rows["text_to_text"] = []
    rows["tagging"] = [row for row in rows["tagging"] if len(row.values["tokens"]) == len(row.values["tags"])]
    if all(len(row.values["tokens"]) == 1 for row in rows["tagging"]):  # rows are single words, not sentences
        rows["tagging"] = []
    answered = any(row.values["answers"] for row in rows["question_answering"])  # if none has an answer, they may be multiple choice
    rows["question_answering"] = [row for row in rows["question_answering"] if answered and _are_in_context(row)]
    fitting = {kind: of_kind for kind, of_kind in rows.items() if 2 * len(of_kind) > len(records)}
    readers = {kind: Columns(SECTIONS[kind].roles, given[kind]) for kind in fitting}
    first = {kind: next((one for one in records if isinstance(columns.take(one), Row)), records[0]) for kind, columns in readers.items()}
    reads = {kind: columns.read_of(first[kind].values) for kind, columns in readers.items()}
    unpaired: Mapping[str, str] = {}
    if not {"chosen", "winner"} & reads.get("dpo", {}).keys():  # a text and a label do not show that the text is a completion
        unpaired = reads.pop("dpo", {})
    preferred = {kind for kind in reads if _has_preferred_names(kind, reads[kind], given[kind])}
    if any(not SECTIONS[kind].reads_text for kind in preferred):  # drop objectives that read a column by a fallback name (Role.later)
        reads = {kind: reads[kind] for kind in reads if kind in preferred}
    are_flags = all(read_flag(str(row.values.get("label"))) is not None for row in fitting.get("dpo", ()))  # labels like good and bad
    of_classes = reads.get("classification", {})
    unclear = "text" not in named and "pair" not in of_classes
    return DataSummary(
        section.path or section.hub or f"stdlib: {section.stdlib}",
        held,
        len(records),
        _count(section, on_bad_row, records, {kind: readers[kind] for kind in ("classification", "tagging") if kind in reads}),
        reads | ({"reward": reads["dpo"]} if "dpo" in reads else {}),  # a reward model learns from the same kind of rows as DPO
        conversations="chat" in reads and any("messages" in row.values for row in fitting["chat"]),
        like_texts=tuple(name for name in held if name in _TEXT.columns) if unclear and of_classes else (),
        unread={} if named else {kind: _unread_texts(kind, reads[kind], records, held) for kind in reads},
        label_sets=find_label_sets([row.values["labels"] for row in fitting["multi_label"]]) if "multi_label" in reads else None,
        named={kind: found[kind] for kind in reads if found.get(kind)},
        unanswerable="question_answering" in reads and any(not row.values["answers"] for row in fitting["question_answering"]),
        flag=unpaired.get("label", "") if not named and are_flags else "",
    )


def _check_named(section: SourceSection, named: Named, records: Sequence[Record], held: Mapping[str, Sequence[Any]]) -> None:
    """Raise DataError if the user names a column that none of the `records` has."""
    for role, column in named.items():
        for name in [column] if isinstance(column, str) else column:
            for part in columns_of(name):
                if all(look_up(part, record.values) is MISSING for record in records):
                    close = difflib.get_close_matches(part, held, n=1)
                    hint = f"did you mean {argument('columns', {role: name.replace(part, close[0])})}" if close else "name another column"
                    raise DataError(f"{section.path or section.hub}: no column {part!r}; columns found: {', '.join(held)}; {hint}")


def _recognised_columns(name: str, held: Mapping[str, Sequence[Any]]) -> dict[str, Named]:
    """Return the columns by role, for each objective that is recognised from several columns together, such as two languages.

    `name`: the name of the data; `held`: the values of each column.
    """
    languages, votes = translation(name, [*held]), vote_columns(held)
    return {
        "multi_label": flag_columns(held),
        "multiple_choice": choice_columns(held),
        "text_to_text": languages,
        "chat": instructed(languages),
        "dpo": {"winner": votes} if votes else {},
    }


def _unread_texts(kind: str, reads: Mapping[str, str], records: Sequence[Record], held: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """Return the columns of long texts that the objective `kind` would not read; none for an objective that FURTHER_TEXT does not list."""
    part, beside = FURTHER_TEXT.get(kind, ("", ""))
    if beside not in reads or part in reads:
        return ()
    read, others = _values(reads.values(), records), held.keys() - _parts(reads.values())
    return unread_texts({name: held[name] for name in held if name in others}, read, read[reads[beside]])


def _parts(names: Iterable[str]) -> set[str]:
    """Return the columns that `names` refer to; a name is a column, a path into one, a list of columns or a template with columns."""
    return {part for name in names for one in (name, *columns_of(name), *name.split(", ")) for part in (one, one.partition(".")[0])}


def _are_in_context(row: Row) -> bool:
    """Whether each answer has a position or occurs in the context; otherwise the answers may be choices, or texts to generate."""
    return all(answer["answer_start"] is not None or answer["text"] in row.values["context"] for answer in row.values["answers"])


def _column_names(records: Sequence[Record]) -> list[str]:
    """Return the names of the columns; for a column of objects that hold only texts, the paths to these texts instead."""
    names = dict.fromkeys(name for record in records for name in record.values)
    first: dict[str, Any] = dict.fromkeys(names) | {
        name: value for record in reversed(records) for name, value in record.values.items() if value is not None
    }
    return [path for name in names for path in ([f"{name}.{key}" for key in first[name]] if _is_of_texts(first[name]) else [name])]


def _is_of_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, str) for part in value.values())


def _values(names: Iterable[str], records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return the values of each column, or path into a column, in `names`; None where a record lacks the value."""
    found = {name: [value_of(name, record.values) for record in records] for name in names}
    return {name: [None if value is MISSING else value for value in values] for name, values in found.items()}


def _has_preferred_names(kind: str, reads: dict[str, str], named: dict[str, str | list[str]]) -> bool:
    """Whether each column that an objective reads has a usual name of its role (Role.columns, not Role.later), or is named by the user."""
    roles = {role.name: role for role in SECTIONS[kind].roles}
    return all(name in named or column in roles[name].columns for name, column in reads.items())


def _count(section: SourceSection, on_bad_row: Any, first: Sequence[Record], readers: dict[str, Columns]) -> RowCounts:
    """Count the rows of the source, their characters, labels and tags, up to a limit. Raises DataError if a row cannot be read."""
    counts = RowCounts()
    is_whole = len(first) < FIRST_ROWS
    for record in first if is_whole or section.streamed else all_records(section, on_bad_row, ENOUGH_ROWS):
        counts.rows += 1
        counts.characters += sum(len(str(value)) for value in record.values.values())
        read = {kind: row.values for kind, columns in readers.items() if isinstance(row := columns.take(record), Row)}
        counts.labels.update([values["label"] for values in (read.get("classification"),) if values])
        counts.tags.update(read.get("tagging", {}).get("tags", ()))
        if counts.characters >= ENOUGH_CHARACTERS:
            break
    counts.are_all = counts.characters < ENOUGH_CHARACTERS and counts.rows < ENOUGH_ROWS
    if section.streamed and not is_whole:  # counting the other rows would download them
        counts.rows, counts.characters, counts.are_all = section.rows or MANY_ROWS, ENOUGH_CHARACTERS, False
    return counts


def _rows(kind: str, named: dict[str, Any], records: Sequence[Record], class_names: tuple[str, ...]) -> list[Row]:
    """Return the records that can be read as rows of an objective; none if the user names columns for roles that the objective lacks."""
    roles = SECTIONS[kind].roles
    if {*named} - {role.name for role in roles}:
        return []
    columns = Columns(roles, named, class_names=class_names)
    return [row for record in records if isinstance(row := columns.take(record), Row)]


def _row_tokens(section: SourceSection, columns: Iterable[str], codec: Tokenizer | None) -> RowTokens | None:
    """Count the tokens of `columns` in the first rows; None without a tokenizer or text, or for a streamed source, to save a download."""
    if section.streamed:
        return None
    records = first_records(section, "skip", _SAMPLE)
    return row_tokens([" ".join(text for name in columns for text in texts_of(value_of(name, one.values))) for one in records], codec)


def _inspect_model(start: str) -> tuple[ModelSummary, Tokenizer | None]:
    """Return a summary of the checkpoint, and its tokenizer, without reading the weights. Raises ModelError for an invalid checkpoint."""
    described = describe(start)
    config, codec = described.config, described.codec
    has_chat_tokens = codec is not None
    if codec is not None:
        try:
            resolve_format("auto", codec, None)
        except UsageError:
            has_chat_tokens = False
    kind = ModelSummary(
        start,
        described.family,
        config.stacks,
        config.head.kind,
        sum(parameter.numel() for parameter in on_meta(config).parameters()),
        has_chat_tokens,
        codec is not None and codec.backend.token_to_id("<extra_id_0>") is not None,
        codec is not None and codec.chat_template is not None,
        config.context_length,
        activation_bytes_per_token(config),
        config.position.kind == "relative",
    )
    return kind, codec


def _document(task: Task, size: Size, given: dict[str, Any]) -> dict[str, Any]:
    """Return the decided recipe, without fields that contradict the user's overrides, `given`."""
    point = size.point
    own = {name: given.get(name, {}) for name in ("data", "optimizer", "schedule", "training", "evaluation")}
    held_out = size.held_out
    optimizer = {"kind": point.optimizer["kind"], "lr": size.lr, **point.optimizer}
    if own["optimizer"].get("kind", optimizer["kind"]) != optimizer["kind"]:
        optimizer = {"kind": own["optimizer"]["kind"], "lr": optimizer["lr"]}
    schedule = dict(point.schedule)
    if own["schedule"].get("kind", schedule["kind"]) == "noam" or {"warmup_steps", "warmup_tokens"} & own["schedule"].keys():
        schedule.pop("warmup_ratio", None)
    length = {} if any(own["training"].get(name) is not None for name in LENGTHS if name != "epochs") else {"epochs": size.epochs}
    log = {"log_every": size.log_every} if size.log_every else {}
    judged = {"metric": task.metric} if task.metric else {}
    is_given = "lr" in own["optimizer"] or own["schedule"].get("kind") == "noam"
    tried = {} if is_given or not size.trial_rates else {"trial_rates": size.trial_rates}
    # With patience, each evaluation needs a checkpoint, so checkpoints are written at the same interval.
    every = own["evaluation"].get("every", "epoch") if "patience" in own["training"] else "epoch"
    return {
        "model": {"context_length": size.context_length} if size.context_length else {},
        "data": {"train": [], "validation": held_out} | ({"sequence_length": size.sequence_length} if size.sequence_length else {}),
        "objective": task.objective,
        "optimizer": optimizer,
        "schedule": schedule,
        "training": {**length, "batch_size": size.batch_size, **tried, **({"adapter": size.adapter} if size.adapter else {}), **log},
        "checkpoint": {"every": every, "keep": 1} if held_out else {},
        "evaluation": {"every": "epoch", **judged} if held_out else {},
    }


def _fitting_recipe(decided: dict[str, Any], overrides: Overrides, comment: str) -> ResolvedRecipe:
    """Return the decided recipe with the overrides. Decided fields that contradict them are removed, except those of the objective."""
    while True:
        try:
            return read_document(decided, _DECIDED, overrides, comment)
        except RecipeError as error:
            misfits = [problem.path for problem in error.problems if problem.place.file == _DECIDED and problem.path[:1] != ("objective",)]
            if not any(_remove(decided, path) for path in misfits):
                raise


def _remove(document: dict[str, Any], path: Sequence[str | int]) -> bool:
    """Remove a field from a document, and return whether it was there."""
    section = document.get(str(path[0])) if len(path) == 2 else None
    return isinstance(section, dict) and section.pop(str(path[1]), None) is not None


def _named_columns(columns: Mapping[str, Any] | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return overrides that set `columns` in each training and validation source that the user's overrides name; empty for no columns."""
    sources = {part: given["data"].get(part) for part in ("train", "validation")} if columns else {}
    names = [f"data.{part}.{number}" for part, found in sources.items() if isinstance(found, list) for number in range(len(found))]
    return {f"{name}.columns": columns for name in names}


def _is_source(name: str, read: str, seen: DataSummary) -> bool:
    """Whether the values of `read`, a column or a path, are those of the column `name`, or items of the lists in that column."""
    pairs = [*zip(seen.held[name], seen.held.get(read, ()), strict=False)]
    return bool(pairs) and all(value == whole or (isinstance(whole, list) and value in whole) for whole, value in pairs)


def _header(seen: DataSummary, model: ModelSummary, task: Task, size: Size) -> str:
    """Return the comment at the beginning of the decided recipe: the data, the model, and the reasons for the decisions."""
    kind = task.objective["kind"]
    read = seen.reads.get(kind) or seen.reads.get("causal_lm", {})
    reads = ", ".join(f"{role} from {column!r}" for role, column in read.items())
    parts = _parts(read.values())
    unread = ", ".join(repr(name) for name in seen.held if name not in parts and not any(_is_source(name, part, seen) for part in parts))
    return comment_of(
        [
            f"{kind}: {task.because}.",
            f"data   {seen.name}: {', '.join(seen.held)}; {seen.rows:,} row{'s were' if seen.rows > 1 else ' was'} looked at",
            *([f"reads  {reads}"] if reads else []),
            *([f"unread {unread}"] if reads and unread else []),
            f"model  {model}",
            f"as     {size.point.source}",
            f"size   {size.because}",
            f"rules  decisions: {DECISIONS}",
            "Saved as a file, this is a recipe: tfkit finetune FILE",
        ]
    )
