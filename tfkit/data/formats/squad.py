"""Nested JSON as rows. In SQuAD's files, an article has paragraphs, each a context with questions (arXiv 1606.05250; SQuAD 2.0:
1806.03822). In the files of CMRC and MRQA, the contexts are the outermost objects (arXiv 1810.07366, 1910.09753). In the files of chatbots,
an intent has example texts, and responses.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tfkit.data.columns.record_columns import Columns, Record


def questions_of(record: Record, columns: Columns) -> Iterator[Record]:
    """Yield a record for each question of an article or a context, and for each text of an intent; yield other records unchanged.

    A context outside an article is divided only if a role reads a column of its questions, and an intent only if its texts are rows
    (`_are_texts_read`).
    """
    paragraphs: Any = record.values.get("paragraphs")
    questions: Any = record.values.get("qas")
    if _are_objects(paragraphs) and paragraphs and all(_are_objects(paragraph.get("qas")) for paragraph in paragraphs):
        for paragraph in _inner(record, "paragraphs", "paragraph"):
            yield from _inner(paragraph, "qas", "question")
    elif _are_objects(questions) and columns.select_read({"question", *(name for one in questions for name in one)}):
        yield from _inner(record, "qas", "question")
    elif "responses" in record.values and (name := _intent_of(record)) and _are_texts_read(columns):
        texts, label = (record.values[key] for key in name)
        yield from (Record({**record.values, "text": text, "label": label}, f"{record.place}, text {n}") for n, text in enumerate(texts, 1))
    else:
        yield record


def _are_texts_read(columns: Columns) -> bool:
    """Whether each text of an intent is a row: the labels are read, or, for predictions, the texts are read and the labels are kept."""
    return bool(columns.select_read(["label"]) or (columns.select_kept(["label"]) and columns.select_read(["text"])))


def _intent_of(record: Record) -> tuple[str, str] | None:
    """Return the keys of an intent's texts and of its name; None if the record is no intent."""
    texts, names = ([name for name in known if name in record.values] for known in (("patterns", "text", "examples"), ("tag", "intent")))
    are_texts = texts and isinstance(found := record.values[texts[0]], list) and all(isinstance(text, str) for text in found)
    return (texts[0], names[0]) if are_texts and names else None


def _inner(record: Record, key: str, kind: str) -> Iterator[Record]:
    """Yield the objects of an array in a record, each with the record's other columns."""
    around = {name: value for name, value in record.values.items() if name != key}
    return (Record({**around, **one}, f"{record.place}, {kind} {number}") for number, one in enumerate(record.values[key], 1))


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
