"""Recognition of columns by their values and names: the form of each column, columns that belong together (texts in several
languages, labels of 0 and 1, answers to choose from), and texts that a task would leave unread.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from tfkit.recipe.schema.label_sections import MultiLabelSection, MultipleChoiceSection
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.roles import normalized

FEW = 5  # least mean number of rows per distinct value in a column of classes; with fewer, they count as names or numbers
_LONG, _SPACES = 60, 6  # least median numbers of characters and of spaces in a column of longer texts
_CONTAINED = 20  # least number of characters of a main text that is searched for in another column; a shorter one may occur there by chance
_DELIMITERS, _MAX_LABEL = ("|", ";", ","), 40  # separators of the labels of a set, and the largest number of characters of a label

Held = Mapping[str, Sequence[Any]]  # the values of each column, row by row; None where a row lacks the column
Named = dict[str, str | list[str]]  # by role, such as text or label: a column, a list of columns, or a template "{first} {second}"
_TEXT, _LABELS = (next(role for role in MultiLabelSection.roles if role.name == name) for name in ("text", "labels"))
_CONTEXT, _CHOICES, _ANSWER = MultipleChoiceSection.roles
_ALIKE = re.compile(r"(.*?)([0-9]|[A-Ja-j])")
_SERIES = ("0123456789", "123456789", "ABCDEFGHIJ", "abcdefghij")  # series that number columns at the ends of their names (ending0)
_WRONG = re.compile("distract|incorrect|wrong|false")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*", re.IGNORECASE)
# The codes of languages (ISO 639-1), after which the columns and files of translations are named.
_CODES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es "
    "et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki "
    "kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no "
    "nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te "
    "tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
LANGUAGES = frozenset(_CODES.split())


def form_of(values: Sequence[object]) -> str:
    """Return the form of a column's values: text, label, texts (lists of words or texts), messages or other."""
    if values and all(isinstance(value, list) and value for value in values):
        parts = [part for value in values if isinstance(value, list) for part in value]
        if all(isinstance(part, Mapping) and {"role", "from"} & part.keys() for part in parts):
            return "messages"
        return "texts" if all(isinstance(part, str) for part in parts) else "other"
    if few_values(values):
        return "label"
    texts = [value for value in values if isinstance(value, str)]
    return "text" if 2 * sum(" " in text.strip() for text in texts) > len(values) else "other"


def read_number(text: str) -> float | None:
    """Parse a number in decimal digits, with or without an exponent; None for any other text, or if the number is too large for a float.

    Unlike Python's float(), this does not accept 1_5, infinity, nan or the digits of other scripts.
    """
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) < float("inf") else None


def few_values(values: Sequence[object]) -> bool:
    """Return whether a column may hold labels: short texts or integers, at least two different ones, each at least FEW times on average."""
    short = all(isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= _MAX_LABEL) for value in values)
    return short and 2 <= len({*map(str, values)}) <= len(values) / FEW


def long_texts(values: Sequence[object]) -> bool:
    """Return whether a column holds longer texts that rarely repeat, and not names, addresses or explanations of classes."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if 2 * len(texts) <= len(values) or 2 * len({*texts}) <= len(texts):
        return False
    return sorted(map(len, texts))[len(texts) // 2] >= _LONG and sorted(text.count(" ") for text in texts)[len(texts) // 2] >= _SPACES


def unread_texts(held: Held, read: Held, beside: Sequence[object]) -> tuple[str, ...]:
    """Return the columns of longer texts that a task would leave unread, except columns that repeat what the task reads.

    `held`: the columns that are not read; `read`: those that are read; `beside`: the main text, a column of `read`. A column repeats what
    is read if at least a third of its texts are contained in a text of `read` in the same row, or contain its main text (unless short).
    """
    return tuple(name for name, values in held.items() if long_texts(values) and not _repeats(values, beside, [*read.values()]))


def _repeats(values: Sequence[object], texts_beside: Sequence[object], read: Sequence[Sequence[object]]) -> bool:
    texts = repeated = 0
    for value, beside, *others in zip(values, texts_beside, *read, strict=True):
        if isinstance(value, str) and (text := value.strip()):
            texts += 1
            contains = isinstance(beside, str) and len(beside.strip()) >= _CONTAINED and beside.strip() in text
            repeated += contains or any(isinstance(other, str) and text in other for other in others)
    return 3 * repeated >= texts


@dataclass(frozen=True)
class LabelSets:
    """The form of label sets in rows: the number of distinct labels, and the delimiter of a row's labels (None: they are not one text)."""

    count: int
    delimiter: str | None = None


def find_label_sets(values: Sequence[Any]) -> LabelSets | None:
    """Return the form of the label sets in `values`, which holds the labels of each row; None for texts of one label each, or no labels.

    Lists and texts hold labels only if these are short and occur at least `FEW` times on average; mappings from labels to flags always do.
    """
    if values and all(isinstance(value, Mapping) for value in values):
        return LabelSets(len({name for value in values for name in value}))
    if any(isinstance(value, Mapping) for value in values):
        return None
    if not any(isinstance(value, str) for value in values):
        lists = [[*map(str, value)] for value in values]
        return LabelSets(len({label for labels in lists for label in labels})) if _are_labels(lists) else None
    texts = [value if isinstance(value, str) else "|".join(value) for value in values]
    for delimiter in _DELIMITERS:
        lists = [[part.strip() for part in text.split(delimiter) if part.strip()] for text in texts]
        labels = {label for row in lists for label in row}
        fewer = len(labels) < len({*texts}) or (delimiter == "|" and not labels.isdisjoint(texts))
        if any(len(row) > 1 for row in lists) and fewer and _are_labels(lists):
            return LabelSets(len(labels), delimiter)
    return None


def _are_labels(lists: Sequence[Sequence[str]]) -> bool:
    labels = {label for row in lists for label in row}
    return len(labels) > 1 and len(labels) * FEW <= sum(map(len, lists)) and max(map(len, labels)) <= _MAX_LABEL


def flag_columns(held: Held) -> Named:
    """Return the columns of 0 and 1 as `labels`, and the only column of text as `text` unless its name is recognised anyway; empty if a
    column has a name for labels, if there is not exactly one text, or if fewer than two columns have a 1.
    """
    flags = [name for name, values in held.items() if values and all(str(value) in ("0", "1") for value in values)]
    if {*_LABELS.columns} & held.keys() or sum(any(str(value) == "1" for value in held[name]) for name in flags) < 2:
        return {}
    if known := [name for name in _TEXT.columns if name in held]:
        return {"labels": flags} if len(known) == 1 else {}
    texts = [name for name in held if long_texts(held[name])] or [name for name in held if _TEXT.knows(name)]
    return {"text": texts[0], "labels": flags} if len(texts) == 1 else {}


def languages_in(held: Held) -> list[str]:
    """Return the columns of texts that are named after languages; data for translation have several such columns."""
    return [name for name in held if name.removeprefix("translation.") in LANGUAGES and form_of(held[name]) == "text"]


def translation(name: str, columns: Sequence[str]) -> Named:
    """Return the columns `source` and `target` of a translation whose columns are named after their languages; empty for other data, and if
    the direction is not known. The columns may be inside an object called `translation`, as on the Hub.

    The direction is in the data's `name` (`en-de`) or, if this ends with the first of two languages (`train.en`), from it to the other.
    """
    within = {language_of(column): column for column in columns if column.startswith("translation.")}
    by_language = within or {column: column for column in columns if column in LANGUAGES}
    if len(by_language) < 2 or (not within and len(columns) != len(by_language)):
        return {}
    words = re.split(r"[^a-z0-9]+", name.lower())
    pairs = [pair for pair in pairwise(words) if len({*pair} & by_language.keys()) == 2]
    first, *others = by_language
    found = pairs[0] if pairs else (first, *others) if len(others) == 1 and first in words[-2:] else ()
    return dict(zip(("source", "target"), (by_language[language] for language in found), strict=False))


def instructed(languages: Mapping[str, str | list[str]]) -> Named:
    """Return the columns of the roles `instruction` (a template) and `output`, by which a chat model learns to translate.

    `languages`: the columns `source` and `target` that `translation` returns; the result is empty if `languages` is.
    """
    if not languages:
        return {}
    source, target = map(str, languages.values())
    return {"instruction": f"Translate from {language_of(source)} to {language_of(target)}: {{{source}}}", "output": target}


def language_of(column: str) -> str:
    """Return the language after which a column is named; the column may be a path, such as translation.en."""
    return column.rpartition(".")[2]


def choice_columns(held: Held) -> Named:
    """Return the columns of the context, the choices and the label if a column such as `answer` says which of several numbered columns is
    right; only the context, if several columns form it and the choices are a list in one column; an empty dict for other columns.
    """
    answers = [name for name in held if _ANSWER.knows(name)]
    contexts = [name for name in held if _CONTEXT.knows(name) and form_of(held[name]) in ("text", "label")]
    is_list = answers and len(contexts) > 1 and any(map(_CHOICES.knows, held))
    return next((named for answer in answers for named in choices_by(held, answer)), {"context": _joined(contexts)} if is_list else {})


def choices_by(held: Held, answer: str) -> Iterator[Named]:
    """Yield the columns of the context, the choices and the label for each group of numbered columns to which the column `answer` belongs.

    The values of `answer` say which column of the group is right; if the names in the group say that its answers are wrong (distractor1),
    `answer` holds the right one.
    """
    for stem, group in _numbered_alike(held):
        label, options = _label(held, stem, group, answer), [*group.values()]
        if _WRONG.search(stem.lower()):
            options = [answer, *options]
        texts = [name for name in held if name not in (*options, answer) and form_of(held[name]) in ("text", "label")]
        context = [name for name in texts if _CONTEXT.knows(name)]
        if len(options) > 2:
            context = context or [name for name in texts if form_of(held[name]) == "text"]
        if label is not None and answer not in group.values() and context:
            yield {"context": _joined(context), "choices": options, "label": label}


def _joined(columns: Sequence[str]) -> str:
    return columns[0] if len(columns) == 1 else " ".join(f"{{{name}}}" for name in columns)


def _numbered_alike(held: Held) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each group of columns whose names differ only in a last digit or letter: their beginning, and the columns by this character.

    A group of two columns whose names another task recognises, such as `sentence1` and `sentence2`, is left to that task.
    """
    groups: dict[str, dict[str, str]] = {}
    for name in held:
        if (match := _ALIKE.fullmatch(name)) and all(isinstance(value, str | None) for value in held[name]):
            groups.setdefault(match[1], {})[match[2]] = name
    for stem, group in groups.items():
        is_series = any(series.startswith("".join(sorted(group))) for series in _SERIES)
        if is_series and len(group) > 1 and (len(group) > 2 or not _known_texts() & {*map(normalized, group.values())}):
            yield stem, dict(sorted(group.items()))


def _label(held: Held, stem: str, group: Mapping[str, str], answer: str) -> str | None:
    """Return the column or template of the role `label`, if the column `answer` says which column of `group` has the right answer.

    The label is the column `answer` itself if it holds the columns' positions from 0 or from A, the names of the group's columns, or texts
    of answers. If it holds only the ends of these names, the label is a template that adds the common beginning `stem`. Return None for
    other values, or if the position or name of a column never occurs.
    """
    values = [str(value).strip().removesuffix(".0") for value in held[answer] if value is not None]
    named, count = {*values} - {"", "-1"}, len(group)
    by_name = {} if stem + min(group) in _SERIES[0] else {frozenset(group): f"{stem}{{{answer}}}", frozenset(group.values()): answer}
    if label := (by_name | {frozenset(_SERIES[0][:count]): answer, frozenset(_SERIES[2][:count]): answer}).get(frozenset(named)):
        return label
    rows = zip(held[answer], *(held[name] for name in group.values()), strict=True)
    is_text = 2 * sum(right in options for right, *options in rows) > len(values)
    return answer if is_text or (_WRONG.search(stem.lower()) and form_of(held[answer]) != "label") else None


@cache
def _known_texts() -> frozenset[str]:
    """Return the names, normalized, of columns that objectives recognise as texts, except contexts."""
    others = [role for section in SECTIONS.values() for role in section.roles if role.form in ("text", "turns") and role.name != "context"]
    return frozenset(normalized(name) for role in others for name in (*role.columns, *role.later))
