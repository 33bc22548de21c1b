"""The task of a fine-tuning without a recipe, derived from the columns of the data and the kind of the model. Torch-free.

An unambiguous task is chosen; otherwise an error reports the observations, and a line to copy for each task that may be meant.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, permutations
from typing import Any, NamedTuple

from tfkit.errors import UsageError, argument
from tfkit.recipe.label_sets import LabelSets
from tfkit.recipe.languages import LANGUAGES
from tfkit.recipe.numbers import read_number
from tfkit.recipe.schema.objective_facts import OWN_HEADS, SECTIONS, Stacks

FEW = 5  # minimum mean number of rows per class: a column with fewer holds names or numbers, not classes
UNEQUAL = 0.6  # fraction of the rows with the most frequent class beyond which accuracy says little
_LONG, _SPACES = 60, 6  # minimum median numbers of characters and spaces in a column of longer texts
_CONTAINED = 20  # minimum characters of a text that another contains not just by chance
_MAX_LISTED = 20


@dataclass(frozen=True)
class DataSummary:
    """Observations of the first rows of the data."""

    name: str  # of the source, as the user wrote it
    columns: tuple[str, ...]
    kinds: frozenset[str]  # the objectives whose roles match the columns
    rows: int  # number of rows that were read
    count: int = 0  # number of all rows, up to ENOUGH_ROWS
    is_counted: bool = True  # there are no more rows than `count`
    characters: int = 0  # in these `count` rows
    labels: Mapping[str, int] = field(default_factory=dict)  # of classification: how many of these rows have each
    tags: Mapping[str, int] = field(default_factory=dict)  # of tagging: how many words have each
    conversations: bool = False  # rows of chat are messages, not an instruction and its answer
    forms: Mapping[str, str] = field(default_factory=dict)  # `form_of` each column
    from_zero: frozenset[str] = frozenset()  # columns of 0 and 1
    reads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # for each of `kinds`: the column of each role
    like_texts: tuple[str, ...] = ()  # columns that may each be the one text of classification, if there is no pair
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # `unread_texts` for each of `kinds`
    label_sets: LabelSets | None = None  # of multi-label classification
    named: Mapping[str, Mapping[str, str | list[str]]] = field(default_factory=dict)  # of `kinds`: the columns to be named
    unanswerable: bool = False  # some questions have no answer in their context


@dataclass(frozen=True)
class ModelSummary:
    """The facts of a checkpoint that decide its task."""

    name: str  # as the user wrote it
    family: str
    stacks: Stacks
    head: str
    parameters: int
    has_chat_tokens: bool  # has a chat template, or the special tokens of a chat format
    has_spans: bool  # has T5's tokens for missing spans
    tuned: bool = False  # has a chat template
    context_length: int = 0
    token_bytes: int = 0  # approximate activation memory per token
    reads_further: bool = False  # beyond its context length, by relative positions (T5)

    def __str__(self) -> str:
        head = _HEADS.get(self.head, self.head)
        return f"{self.name}: {_STACKS[self.stacks]} ({self.family}, {self.parameters / 1e6:,.3g} million parameters) with {head}"


_STACKS = {"encoder": "an encoder", "decoder": "a decoder", "both": "a model of an encoder and a decoder"}
_HEADS = {
    "lm": "a head for the next token",
    "masked_lm": "a head for masked tokens",
    "classes": "a head for classes",
    "tags": "a head for tags",
    "spans": "a head for answers in a context",
    "none": "no head",
}


@dataclass(frozen=True)
class Task:
    """A chosen task: its objective section, the metric of the best checkpoint (None: the loss), and the reason."""

    objective: dict[str, Any]
    metric: str | None
    because: str


def decide(seen: DataSummary, model: ModelSummary, given: Mapping[str, Any]) -> Task:
    """Choose the task; `given` is the user's part of the objective. Raises UsageError if no task or several are possible."""
    if len(languages := languages_in(seen.forms)) > 2 and not seen.kinds:
        what = f"the texts are in {len(languages)} languages, and nothing says which is to be translated to which"
        raise _task_error(seen, model, what, *_remedies(seen, model))
    kind = given.get("kind") or _labelled_objective(seen, model) or _pretraining_objective(seen, model)
    _check_all_is_read(seen, model, kind)
    if kind == "classification":
        return _classification(seen, model, given)
    if kind == "multi_label":
        return _multi_label(seen)
    if kind == "tagging":
        names = any(tag.startswith(("B-", "I-")) for tag in seen.tags)
        metric = "f1" if names else "f1_macro" if is_unequal(seen.tags) else "accuracy"
        return Task({"kind": kind}, metric, "tokens and their tags" + (", which are parts of names" if names else ""))
    if kind == "question_answering":
        some = "; some questions have none" if seen.unanswerable else ""
        section = {"kind": kind} | ({"unanswerable": True} if some else {})
        return Task(section, "f1", f"questions, contexts, and the answers in them{some}")
    if kind == "multiple_choice":
        return Task({"kind": kind}, "accuracy", "a context, several answers, and which of them is right")
    if kind == "text_to_text":
        return Task({"kind": kind}, None, _translated(seen) or "a text, and the text that answers it")
    if kind == "dpo":
        of = "reward" if model.head == "classes" else kind  # DPO would replace the head of a model that scores texts
        return Task({"kind": of}, "accuracy", "a prompt, and two completions of which one is better")
    if kind == "chat":
        form = {} if model.has_chat_tokens else {"format": "chatml"}
        without = "" if model.has_chat_tokens else "; the tokenizer has no chat template, so it gets that of chatml and its special tokens"
        of = "conversations" if seen.conversations else _translated(seen) or "instructions and their answers"
        return Task({"kind": kind} | form, None, of + without)
    return Task({"kind": kind}, None, "named on the command line" if "kind" in given else "text alone, so the model's own task continues")


def _translated(seen: DataSummary) -> str:
    """Describe a translation whose direction is known; empty for other data."""
    languages = " to ".join(_language(str(column)) for column in seen.named.get("text_to_text", {}).values())
    return f"a translation from {languages}" if languages else ""


# For each objective: the role for a further column of text (empty: none), and the role beside it.
_FURTHER_TEXT = {
    "classification": ("pair", "text"),
    "multi_label": ("pair", "text"),
    "chat": ("input", "instruction"),
    "multiple_choice": ("", "context"),
}


def _check_all_is_read(seen: DataSummary, model: ModelSummary, kind: str) -> None:
    """Raise UsageError if a column of text would not be read, such as the passage that a question is about."""
    if unread := seen.unread.get(kind):
        part, beside = _FURTHER_TEXT[kind]
        first, second = unread[0], seen.reads[kind][beside]
        both = {beside: second, part: first} if part else {beside: f"{{{first}}} {{{second}}}"}
        what = f"the column {first!r} holds text, and would not be read beside {second!r}"
        raise _task_error(
            seen, model, what, f"{columns_option({beside: second})} to read that alone", f"{columns_option(both)} to read both"
        )


def _labelled_objective(seen: DataSummary, model: ModelSummary) -> str | None:
    """Return the objective on labelled rows that fits the columns; None if the rows are text alone."""
    certain: list[str] = [kind for kind in ("dpo", "tagging", "question_answering", "multiple_choice") if kind in seen.kinds]
    certain += ["chat"] if seen.conversations else []
    sets = seen.label_sets
    of_classes = "multi_label" if sets and "multi_label" not in seen.named else "classification"
    by_folder = model.stacks == "decoder" and seen.reads.get("classification", {}).get("label") == "folder"  # these may be just notes
    fitting = certain[:1] or [kind for kind in ("chat", "text_to_text", of_classes) if kind in seen.kinds and not by_folder]
    if not fitting and sets and model.stacks == "encoder":  # a language model may be meant to read the text beside columns of 0 and 1
        fitting = ["multi_label"]
    labels = seen.reads.get("multi_label", {}).get("labels")
    is_recognised = "causal_lm" in seen.kinds and labels not in ("labels", "label")  # a note about a text may have such a name
    if fitting == ["multi_label"] and model.stacks == "decoder" and is_recognised:
        what = f"the column {labels!r} may be the labels of the text"
        raise _task_error(seen, model, what, "objective.kind=multi_label", "objective.kind=causal_lm, if it is not")
    possible = [kind for kind in fitting if model.stacks in SECTIONS[kind].stacks]
    if len(possible) > 1:
        lines = [reading for kind in possible for reading in _readings(seen, [kind]) or [f"objective.kind={kind}"]]
        raise _task_error(seen, model, f"this may be {' or '.join(possible)}", *lines)
    if fitting and not possible:
        kind = fitting[0]
        wanted = " or ".join(_STACKS[name] for name in SECTIONS[kind].stacks)
        what = f"these are the columns of {kind}, which is for {wanted}"
        start = argument("start", wanted)
        raise _task_error(seen, model, what, start, *_remedies(seen, model, _ALTERNATIVES.get((kind, model.stacks))))
    return possible[0] if possible else None


# Other ways to read the columns of an objective for which a model with these stacks cannot be trained.
_Columns = tuple[Mapping[str, str], str]  # the columns to name, and the purpose
_CLASSES: _Columns = ({"text": "NAME", "label": "NAME"}, "for the classes of texts, or numbers for them")
_CONVERSATION: _Columns = ({"instruction": "NAME", "output": "NAME"}, "for answers in a conversation")
_WRITTEN: _Columns = ({"source": "NAME", "target": "NAME"}, "to write one text for another")
_LABELLED_COLUMNS: Mapping[str, _Columns] = {"encoder": _CLASSES, "decoder": _CONVERSATION, "both": _WRITTEN}
_ALTERNATIVES: Mapping[tuple[str, str], _Columns] = {
    ("dpo", "both"): ({"source": "NAME", "target": "NAME"}, "to write the better answers"),
    ("tagging", "both"): _CLASSES,
    ("multiple_choice", "both"): _CLASSES,
    ("question_answering", "decoder"): ({"instruction": "NAME", "input": "NAME", "output": "NAME"}, "for answers in a conversation"),
    ("question_answering", "both"): ({"source": "{question} {context}", "target": "NAME"}, "to write the answers"),
}
_ANNOTATIONS = frozenset(("label", "labels", "entities", "spans", "annotations", "ner_tags", "tags"))  # names of columns for labels
_PRETRAINING = {"encoder": "masked_lm", "decoder": "causal_lm", "both": "span_corruption"}


class _Reading(NamedTuple):
    """A way to read columns that are not recognised: the form of the column for each role of an objective."""

    kind: str
    roles: Mapping[str, str]
    purpose: str
    joins: bool = True  # further texts are joined with the first one


_READINGS = (
    _Reading("classification", {"text": "text", "pair": "text", "label": "label"}, "for the classes of pairs of texts"),
    _Reading("classification", {"text": "text", "label": "label"}, "for the classes of texts"),
    _Reading("multiple_choice", {"context": "text", "choices": "texts", "label": "label"}, "to choose the right answer"),
    _Reading("tagging", {"tokens": "texts", "tags": "texts"}, "for the tags of words"),
    _Reading("chat", {"messages": "messages"}, "for answers in conversations"),
    _Reading("chat", {"instruction": "text", "output": "text"}, "for answers in a conversation"),
    _Reading("text_to_text", {"source": "text", "target": "text"}, "to write one text for another"),
    _Reading("dpo", {"prompt": "text", "chosen": "text", "rejected": "text"}, "for the better of two completions", joins=False),
    _Reading(
        "dpo",
        {"prompt": "text", "response_a": "text", "response_b": "text", "winner": "label"},
        "for the better of two responses",
        joins=False,
    ),
    *(_Reading(kind, {"text": "text"}, f"for {kind}, on text alone") for kind in ("causal_lm", "masked_lm", "span_corruption")),
)


def _remedies(seen: DataSummary, model: ModelSummary, otherwise: _Columns | None = None) -> list[str]:
    """Return a line for each task of this model that the columns could serve. `otherwise`: the columns to name if no labelled one could."""
    kind = _PRETRAINING[model.stacks]
    kinds = [name for name, section in SECTIONS.items() if model.stacks in section.stacks and name not in _PRETRAINING.values()]
    on_text = _readings(seen, [kind]) or [f"{columns_option({'text': 'NAME'})} for {kind}, on text alone"]
    return [*(_readings(seen, kinds) or [_named(otherwise or _LABELLED_COLUMNS[model.stacks])]), *on_text]


def _named(columns: _Columns) -> str:
    return f"{columns_option(columns[0])} {columns[1]}"


def _readings(seen: DataSummary, kinds: Collection[str]) -> list[str]:
    """Return a line to copy for each reading of the columns by objectives of these kinds, for texts in several languages in each direction.

    A line says which columns of texts or labels it would not read.
    """
    return [_line(one, columns, seen) for one in _READINGS if one.kind in kinds for columns in _fillings(one, seen)]


def _fillings(reading: _Reading, seen: DataSummary) -> list[dict[str, Any]]:
    """Return the columns for the roles of a reading, or each choice of them; empty if they do not fit."""
    languages = languages_in(seen.forms)
    if len(languages) > 1 and {"output", "target"} & reading.roles.keys():
        pairs = [dict(zip(("source", "target"), pair, strict=True)) for pair in islice(permutations(languages, 2), _MAX_LISTED)]
        return pairs if reading.kind == "text_to_text" else [*map(instructed, pairs)]
    columns = {} if len(languages) > 2 and not reading.joins else _fill(reading, seen.forms)
    return [columns] if columns else []


def languages_in(forms: Mapping[str, str]) -> list[str]:
    """Return the columns of texts that are named by their languages, of which a translation has several."""
    return [name for name, form in forms.items() if form == "text" and name.removeprefix("translation.") in LANGUAGES]


def _fill(reading: _Reading, forms: Mapping[str, str]) -> dict[str, str]:
    """Return a column for each role of a reading; empty if there are too few, or texts that it would leave out."""
    columns: dict[str, str] = {}
    for form in dict.fromkeys(reading.roles.values()):
        roles = [role for role, wanted in reading.roles.items() if wanted == form]
        found = [column for column, held in forms.items() if held == form]
        if len(found) < len(roles) or (form == "text" and len(found) > len(roles) and not reading.joins):
            return {}
        if form == "text":
            rest = len(found) - len(roles) + 1
            found = [found[0] if rest == 1 else " ".join(f"{{{column}}}" for column in found[:rest]), *found[rest:]]
        columns |= dict(zip(roles, found, strict=False))
    return {role: columns[role] for role in reading.roles}


def _line(reading: _Reading, columns: Mapping[str, str], seen: DataSummary) -> str:
    read = {name for column in columns.values() for name in (re.findall(r"\{(.*?)\}", column) or [column])}
    unread = [repr(name) for name, form in seen.forms.items() if form != "other" and name not in read]
    kind = f" objective.kind={reading.kind}" if reading.kind in _PRETRAINING.values() and unread else ""
    note = f" ({', '.join(unread)} {'is' if len(unread) == 1 else 'are'} not read)" if unread else ""
    if columns.get("winner") in seen.from_zero:
        kind, note = " data.train.0.class_names=[a,b]", f", if 0 is a vote for {columns['response_a']!r}, else [b,a]{note}"
    return f"{columns_option(columns)}{kind} {reading.purpose}{note}"


def columns_option(columns: Mapping[str, str]) -> str:
    """Return the argument that names the column of each role."""
    return argument("columns", dict(columns))


def form_of(values: Sequence[object]) -> str:
    """Return what a column may hold: text, label, texts (a list of words or texts), messages; or other."""
    if values and all(isinstance(value, list) and value for value in values):
        parts = [part for value in values if isinstance(value, list) for part in value]
        if all(isinstance(part, Mapping) and {"role", "from"} & part.keys() for part in parts):
            return "messages"
        return "texts" if all(isinstance(part, str) for part in parts) else "other"
    if few_values(values):
        return "label"
    texts = [value for value in values if isinstance(value, str)]
    return "text" if 2 * sum(" " in text.strip() for text in texts) > len(values) else "other"


def _pretraining_objective(seen: DataSummary, model: ModelSummary) -> str:
    """Return the objective for text alone: the model's own kind of pretraining."""
    kind = _PRETRAINING[model.stacks]
    if "causal_lm" not in seen.kinds:
        raise _task_error(seen, model, "no task has these columns", *_remedies(seen, model))
    if model.head in OWN_HEADS:
        what = f"the data has text alone, but the model's head predicts {model.head}"
        raise _task_error(seen, model, what, columns_option({"label": "NAME"}), f"objective.kind={kind}, for another head")
    label = next((name for name, form in seen.forms.items() if form == "label"), None)
    if label is not None and model.stacks == "encoder":
        what = f"the column {label!r} may be the label of the text"
        raise _task_error(seen, model, what, columns_option({"label": label}), f"objective.kind={kind}, if it is not")
    if model.stacks == "encoder" and (unread := _ANNOTATIONS & {*seen.columns} - {*seen.reads["causal_lm"].values()}):
        what = f"the column {min(unread)!r} may be labels, in a form that is not read (tags of words are: CoNLL, or lists of both)"
        raise _task_error(seen, model, what, f"objective.kind={kind}, to leave it out")
    if model.stacks == "both" and not model.has_spans:
        what = "the data has text alone, but the tokenizer has no <extra_id_0> for missing spans"
        raise _task_error(seen, model, what, _named(_LABELLED_COLUMNS["both"]), f"{argument('start')} a T5")
    return kind


def _classification(seen: DataSummary, model: ModelSummary, given: Mapping[str, Any]) -> Task:
    """Choose classes or regression: numbers with fractions mean regression, integers that repeat often are classes."""
    if len(seen.like_texts) > 1:
        first, second = seen.like_texts[:2]
        what = f"{first!r} and {second!r} may each be the text of a classification, or both together"
        of_both, of_one = columns_option({"text": first, "pair": second}), columns_option({"text": first})
        raise _task_error(seen, model, what, f"{of_both} for the classes of pairs", f"{of_one} for those of one text")
    if given.get("regression"):
        return Task({"kind": "classification"}, "rmse", "a text, and a number for it")
    numbers = [read_number(label) for label in seen.labels]
    different, rows = len(seen.labels), sum(seen.labels.values())
    if numbers and all(number is not None for number in numbers) and not given:
        if any(number is not None and not number.is_integer() for number in numbers):
            return Task({"kind": "classification", "regression": True}, "rmse", "a text, and a number with fractions for it")
        if different > 2 and different * FEW > rows:
            raise UsageError(
                f"{seen.name}: the label is a whole number, with {different:,} different ones in {rows:,} rows: a class, or a "
                "number to predict? Set objective.kind=classification, or objective={kind: classification, regression: true}"
            )
    shown = f"one of {different:,} classes" if different else "a class"
    because = f"a text, and a label: {shown} in these rows"
    if is_unequal(seen.labels):
        most = max(seen.labels, key=lambda label: seen.labels[label])
        because += f", of which {seen.labels[most] / rows:.0%} have {most!r}; the best checkpoint is that with the best f1_macro"
        return Task({"kind": "classification"}, "f1_macro", because)
    return Task({"kind": "classification"}, "accuracy", because)


def rare_share(counts: Mapping[str, int]) -> float:
    """Return the share of all labels but the most frequent one; 1 without labels."""
    return 1 - max(counts.values()) / sum(counts.values()) if counts else 1.0


def is_unequal(counts: Mapping[str, int]) -> bool:
    """Return whether one class has so many of the rows that always answering it has a good accuracy."""
    return 0 < rare_share(counts) < 1 - UNEQUAL


def _multi_label(seen: DataSummary) -> Task:
    """Choose multi-label classification, with the delimiter of the labels."""
    if (sets := seen.label_sets) is None:
        return Task({"kind": "multi_label"}, "f1_micro", "a text, and any number of labels")
    section = {"kind": "multi_label"} | ({"delimiter": sets.delimiter} if sets.delimiter else {})
    how = f", separated by {sets.delimiter!r}" if sets.delimiter else ", each a column of 0 and 1" if "multi_label" in seen.named else ""
    return Task(section, "f1_micro", f"a text, and any number of labels: of {sets.count:,} in these rows{how}")


def translation(name: str, columns: Sequence[str]) -> dict[str, str | list[str]]:
    """Return the source and the target of a translation whose columns are named by their languages; empty for others. They may be those of
    an object called translation, as on the Hub.

    The direction is that in the name of the data (`en-de`), or of two from the language of the file that is named (`train.en`) to the other
    one; without either, it is not known.
    """
    within = {_language(column): column for column in columns if column.startswith("translation.")}
    by_language = within or {column: column for column in columns if column in LANGUAGES}
    if len(by_language) < 2 or (not within and len(columns) != len(by_language)):
        return {}
    words = re.split(r"[^a-z0-9]+", name.lower())
    pairs = [pair for pair in pairwise(words) if len({*pair} & by_language.keys()) == 2]
    first, *others = by_language
    found = pairs[0] if pairs else (first, *others) if len(others) == 1 and first in words[-2:] else ()
    return dict(zip(("source", "target"), (by_language[language] for language in found), strict=False))


def instructed(languages: Mapping[str, str | list[str]]) -> dict[str, str | list[str]]:
    """Return the instruction and the output for a model of conversations that learns a translation; empty without one."""
    if not languages:
        return {}
    source, target = map(str, languages.values())
    return {"instruction": f"Translate from {_language(source)} to {_language(target)}: {{{source}}}", "output": target}


def _language(column: str) -> str:
    """Return the language in the name of a column, or of a path into one."""
    return column.rpartition(".")[2]


def few_values(values: Sequence[object]) -> bool:
    """Return whether a column may hold labels: short values, at least two distinct ones, that repeat often."""
    short = all(isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= 40) for value in values)
    return short and 2 <= len({*map(str, values)}) <= len(values) / FEW


def long_texts(values: Sequence[object]) -> bool:
    """Return whether a column holds longer texts that hardly repeat, rather than names, addresses or explanations of a class."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if 2 * len(texts) <= len(values) or 2 * len({*texts}) <= len(texts):
        return False
    return sorted(map(len, texts))[len(texts) // 2] >= _LONG and sorted(text.count(" ") for text in texts)[len(texts) // 2] >= _SPACES


def unread_texts(kind: str, reads: Mapping[str, str], held: Mapping[str, Sequence[object]]) -> tuple[str, ...]:
    """Return the columns of longer texts that an objective would leave unread, if its rows may have a further text.

    `reads`: the column of each role; `held`: the values of each column, row by row. Columns that repeat what is read are excluded: in a
    third of their rows, a text that is read contains the column's text, or the text beside it is contained in it.
    """
    part, beside = _FURTHER_TEXT.get(kind, ("", ""))
    if beside not in reads or part in reads:
        return ()
    read, texts_beside = [held[name] for name in reads.values() if name in held], held[reads[beside]]
    longer = [name for name in held if name not in reads.values() and long_texts(held[name])]
    return tuple(name for name in longer if not _repeats(held[name], texts_beside, read))


def _repeats(values: Sequence[object], texts_beside: Sequence[object], read: Sequence[Sequence[object]]) -> bool:
    texts = repeated = 0
    for value, beside, *others in zip(values, texts_beside, *read, strict=True):
        if isinstance(value, str) and (text := value.strip()):
            texts += 1
            contains = isinstance(beside, str) and len(beside.strip()) >= _CONTAINED and beside.strip() in text
            repeated += contains or any(isinstance(other, str) and text in other for other in others)
    return 3 * repeated >= texts


def _task_error(seen: DataSummary, model: ModelSummary, what: str, *lines: str) -> UsageError:
    names = ", ".join(seen.columns[:_MAX_LISTED]) + (", ..." if len(seen.columns) > _MAX_LISTED else "")
    remedies = "\n  ".join(lines)
    return UsageError(f"{seen.name}: {what}. Columns found: {names}. The model is {model}.\nGive a recipe, or one of these:\n  {remedies}")
