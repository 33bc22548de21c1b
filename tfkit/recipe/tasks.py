"""The task of a fine-tuning without a recipe, derived from the columns of the data and the kind of the model.

If several tasks are possible, or none, an error lists the columns, and options to copy for each task that may be meant.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkit.errors import UsageError, argument
from tfkit.recipe.column_forms import FEW, Held, LabelSets, form_of, language_of, languages_in, read_number
from tfkit.recipe.schema.label_sections import TaggingSection
from tfkit.recipe.schema.objective_facts import OWN_HEADS, SECTIONS, Stacks
from tfkit.recipe.schema.roles import normalized
from tfkit.recipe.task_readings import MAX_LISTED, PRETRAINING, columns_option, labelled, readings, remedies

UNEQUAL = 0.6  # if the most frequent class has more than this fraction of the rows, a model that always predicts it has a high accuracy


@dataclass
class RowCounts:
    """Counts of rows, characters, labels and tags, up to where larger ones change no decision; partly assumed for long streamed sources."""

    rows: int = 0
    characters: int = 0
    are_all: bool = True  # whether all rows were counted
    labels: Counter[str] = field(default_factory=Counter)  # the number of rows with each label of a classification
    tags: Counter[str] = field(default_factory=Counter)  # the number of words with each tag


@dataclass(frozen=True)
class DataSummary:
    """Facts about the first rows of the data, from which the task is decided."""

    name: str  # the source: a path, the name of a data set on the Hub, or stdlib
    held: Held  # the values in the first rows, by column or by a path into a column
    rows: int  # number of rows in `held`
    counts: RowCounts
    reads: Mapping[str, Mapping[str, str]]  # for each objective that can read the rows: the column of each role
    conversations: bool = False  # whether rows of chat are messages, not an instruction and its answer
    like_texts: tuple[str, ...] = ()  # columns that may each be the text of a classification, if none is the second text of a pair
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # for each objective in `reads`: the text columns it leaves unread
    label_sets: LabelSets | None = None  # the form of the labels if rows have several; None: each row has at most one
    # For objectives in `reads`: the columns, by role, that a recipe must name.
    named: Mapping[str, Mapping[str, str | list[str]]] = field(default_factory=dict)
    unanswerable: bool = False  # some questions have no answer in their context
    flag: str = ""  # the column that says whether the completion of a row is good or bad; empty: there is none


@dataclass(frozen=True)
class ModelSummary:
    """The facts of a checkpoint that decide its task."""

    name: str  # as the user wrote it
    family: str
    stacks: Stacks
    head: str  # kind of the head
    parameters: int  # number of parameters
    has_chat_tokens: bool  # the tokenizer has a chat template, or the special tokens of a chat format
    has_spans: bool  # the tokenizer has T5's tokens for missing spans
    tuned: bool = False  # the tokenizer has a chat template
    context_length: int = 0
    token_bytes: int = 0  # estimated bytes of activations per token, in fp32
    reads_further: bool = False  # the model can read rows beyond its context length, because its positions are relative (T5)

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
    """A chosen task: its objective section, the metric that chooses the best checkpoint (None: the loss), and the reason."""

    objective: dict[str, Any]
    metric: str | None
    because: str


def decide(seen: DataSummary, model: ModelSummary, given: Mapping[str, Any]) -> Task:
    """Choose the task. `given`: the fields of the objective that the user sets. Raises UsageError if no task or several are possible."""
    if len(languages := languages_in(seen.held)) > 2 and not seen.reads:
        what = f"the texts are in {len(languages)} languages, and nothing says which is to be translated to which"
        raise _task_error(seen, model, what, *remedies(seen.held, model.stacks))
    kind = given.get("kind") or _labelled_objective(seen, model) or _pretraining_objective(seen, model)
    _check_all_is_read(seen, model, kind)
    if kind == "classification":
        return _classification(seen, model, given)
    if kind == "multi_label":
        return _multi_label(seen)
    if kind == "tagging":
        names = any(tag.startswith(("B-", "I-")) for tag in seen.counts.tags)
        metric = "f1" if names else "f1_macro" if is_unequal(seen.counts.tags) else "accuracy"
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
        of = "reward" if model.head == "classes" else kind  # a model with a head of classes scores texts, and DPO would discard this head
        return Task({"kind": of}, "accuracy", "a prompt, and two completions of which one is better")
    if kind == "chat":
        form = {} if model.has_chat_tokens else {"format": "chatml"}
        without = "" if model.has_chat_tokens else "; the tokenizer has no chat template, so it gets that of chatml and its special tokens"
        of = "conversations" if seen.conversations else _translated(seen) or "instructions and their answers"
        return Task({"kind": kind} | form, None, of + without)
    return Task({"kind": kind}, None, "named on the command line" if "kind" in given else "text alone, so the model's own task continues")


def _translated(seen: DataSummary) -> str:
    """Return, say, "a translation from en to de" for data that are a translation with a known direction; empty for other data."""
    languages = " to ".join(language_of(str(column)) for column in seen.named.get("text_to_text", {}).values())
    return f"a translation from {languages}" if languages else ""


# For objectives that may leave a column of text unread: the role in which they could read it (empty: none), and the role of their text.
FURTHER_TEXT = {
    "classification": ("pair", "text"),
    "multi_label": ("pair", "text"),
    "chat": ("input", "instruction"),
    "multiple_choice": ("", "context"),
}


def _check_all_is_read(seen: DataSummary, model: ModelSummary, kind: str) -> None:
    """Raise UsageError if a column of text would not be read, such as the passage that a question is about."""
    if unread := seen.unread.get(kind):
        part, beside = FURTHER_TEXT[kind]
        first, second, named = unread[0], seen.reads[kind][beside], seen.named.get(kind, {})
        template = f"{{{first}}} {second if '{' in second else f'{{{second}}}'}"
        of_one, of_both = columns_option({**named, beside: second}), {beside: second, part: first} if part else {beside: template}
        what = f"the column {first!r} holds text, and would not be read beside {second!r}"
        raise _task_error(seen, model, what, f"{of_one} to read that alone", f"{columns_option({**named, **of_both})} to read both")


def _labelled_objective(seen: DataSummary, model: ModelSummary) -> str | None:
    """Return the objective for labelled rows that fits the columns, or None. Raises UsageError if the task is unclear or impossible."""
    certain: list[str] = [kind for kind in ("dpo", "tagging", "question_answering", "multiple_choice") if kind in seen.reads]
    certain += ["chat"] if seen.conversations else []
    sets = seen.label_sets
    label, flags = seen.reads.get("classification", {}).get("label"), seen.named.get("multi_label", {}).get("labels", ())
    of_classes = "multi_label" if sets and ("multi_label" not in seen.named or label in flags) else "classification"
    by_folder = model.stacks == "decoder" and label == "folder"  # a language model may be meant to learn the texts, not their folders
    fitting = certain[:1] or [kind for kind in ("chat", "text_to_text", of_classes) if kind in seen.reads and not by_folder]
    if not fitting and sets and model.stacks == "encoder":  # not a decoder, which may be meant to learn the text alone
        fitting = ["multi_label"]
    labels = seen.reads.get("multi_label", {}).get("labels")
    is_text = "causal_lm" in seen.reads and labels not in ("labels", "label")  # labels with another name may only describe the text
    if fitting == ["multi_label"] and model.stacks == "decoder" and is_text:
        what = f"the column {labels!r} may be the labels of the text"
        raise _task_error(seen, model, what, "objective.kind=multi_label", "objective.kind=causal_lm, if it is not")
    possible = [kind for kind in fitting if model.stacks in SECTIONS[kind].stacks]
    if len(possible) > 1:
        lines = [reading for kind in possible for reading in readings(seen.held, [kind]) or [f"objective.kind={kind}"]]
        raise _task_error(seen, model, f"this may be {' or '.join(possible)}", *lines)
    if seen.flag and model.stacks == "decoder" and possible in ([], ["chat"]):
        what = f"the column {seen.flag!r} may say whether a completion is good or bad"
        alike = ["objective.kind=chat to learn all of them alike"] if possible else []
        raise _task_error(seen, model, what, "objective.kind=dpo to prefer the good completions of a prompt", *alike)
    if fitting and not possible:
        kind = fitting[0]
        wanted = " or ".join(_STACKS[name] for name in SECTIONS[kind].stacks)
        what = f"these are the columns of {kind}, which is for {wanted}"
        start = argument("start", wanted)
        raise _task_error(seen, model, what, start, *remedies(seen.held, model.stacks))
    return possible[0] if possible else None


_ANNOTATIONS = frozenset(("label", "labels", "entities", "spans", "annotations", "ner_tags", "tags"))  # usual names of columns with labels


def _pretraining_objective(seen: DataSummary, model: ModelSummary) -> str:
    """Return the objective of the model's pretraining. Raises UsageError if another objective may be meant, or this one is impossible."""
    kind = PRETRAINING[model.stacks]
    if "causal_lm" not in seen.reads:
        words, tags = (any(map(role.knows, seen.held)) for role in TaggingSection.roles)
        of_words = ": each row has a word and its tag, and no column, such as 'sentence', says which rows are a sentence"
        what = f"no task has these columns{of_words if words and tags else ''}"
        several = ["objective.kind=multi_label for any number of labels of a text"] if seen.label_sets else []
        raise _task_error(seen, model, what, *several, *remedies(seen.held, model.stacks))
    if model.head in OWN_HEADS:
        what = f"the data has text alone, but the model's head predicts {model.head}"
        raise _task_error(seen, model, what, columns_option({"label": "NAME"}), f"objective.kind={kind}, which replaces the head")
    label = next((name for name, values in seen.held.items() if form_of(values) == "label"), None)
    if label is not None and model.stacks == "encoder":
        what = f"the column {label!r} may be the label of the text"
        raise _task_error(seen, model, what, columns_option({"label": label}), f"objective.kind={kind}, if it is not")
    unread = [name for name in seen.held if normalized(name) in _ANNOTATIONS and name not in seen.reads["causal_lm"].values()]
    if model.stacks == "encoder" and unread:
        what = f"the column {unread[0]!r} may be labels, in a form that is not read (tags of words are: CoNLL, or lists of both)"
        raise _task_error(seen, model, what, f"objective.kind={kind}, to leave it out")
    if model.stacks == "both" and not model.has_spans:
        what = "the data has text alone, but the tokenizer has no <extra_id_0> for missing spans"
        raise _task_error(seen, model, what, labelled("both"), f"{argument('start')} a T5")
    return kind


def _classification(seen: DataSummary, model: ModelSummary, given: Mapping[str, Any]) -> Task:
    """Choose regression if `given` says so or, without `given`, labels have fractions; else classes. Raises UsageError if it is unclear."""
    if len(seen.like_texts) > 1:
        first, second = seen.like_texts[:2]
        what = f"{first!r} and {second!r} may each be the text of a classification, or both together"
        of_both, of_one = columns_option({"text": first, "pair": second}), columns_option({"text": first})
        raise _task_error(seen, model, what, f"{of_both} for the classes of pairs", f"{of_one} for those of one text")
    if given.get("regression"):
        return Task({"kind": "classification"}, "rmse", "a text, and a number for it")
    numbers = [read_number(label) for label in seen.counts.labels]
    different, rows = len(seen.counts.labels), sum(seen.counts.labels.values())
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
    if is_unequal(seen.counts.labels):
        most = max(seen.counts.labels, key=lambda label: seen.counts.labels[label])
        because += f", of which {seen.counts.labels[most] / rows:.0%} have {most!r}; the best checkpoint is that with the best f1_macro"
        return Task({"kind": "classification"}, "f1_macro", because)
    return Task({"kind": "classification"}, "accuracy", because)


def rare_share(counts: Mapping[str, int]) -> float:
    """Return the fraction of the labels that are not the most frequent one; 1 if there are no labels."""
    return 1 - max(counts.values()) / sum(counts.values()) if counts else 1.0


def is_unequal(counts: Mapping[str, int]) -> bool:
    """Return whether one of several classes or tags is so frequent (a fraction above UNEQUAL) that always predicting it is often right."""
    return 0 < rare_share(counts) < 1 - UNEQUAL


def _multi_label(seen: DataSummary) -> Task:
    """Return the task of multi-label classification, with the delimiter of the labels, if there is one."""
    if (sets := seen.label_sets) is None:
        return Task({"kind": "multi_label"}, "f1_micro", "a text, and any number of labels")
    section = {"kind": "multi_label"} | ({"delimiter": sets.delimiter} if sets.delimiter else {})
    how = f", separated by {sets.delimiter!r}" if sets.delimiter else ", each a column of 0 and 1" if "multi_label" in seen.named else ""
    return Task(section, "f1_micro", f"a text, and any number of labels: of {sets.count:,} in these rows{how}")


def _task_error(seen: DataSummary, model: ModelSummary, what: str, *lines: str) -> UsageError:
    names = ", ".join([*seen.held][:MAX_LISTED]) + (", ..." if len(seen.held) > MAX_LISTED else "")
    found = f"{seen.name}: {what}. Columns found: {names}. The model is {model}.\nGive a recipe, or one of these:"
    return UsageError("\n  ".join([found, *lines]))
