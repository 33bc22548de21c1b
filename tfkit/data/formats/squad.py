"""SQuAD's nested JSON as rows: an article has paragraphs, each a context with questions (arXiv 1606.05250; SQuAD 2.0: 1806.03822)."""

from collections.abc import Iterator, Mapping
from typing import Any

from tfkit.data.columns.record_columns import Record


def questions_of(record: Record) -> Iterator[Record]:
    """Yield a record for each question of an article, with its `context`; any other record unchanged."""
    paragraphs: Any = record.values.get("paragraphs")
    if not _are_objects(paragraphs) or not all("context" in paragraph and _are_objects(paragraph.get("qas")) for paragraph in paragraphs):
        yield record
        return
    title = {"title": record.values["title"]} if "title" in record.values else {}
    for number, paragraph in enumerate(paragraphs, 1):
        for index, question in enumerate(paragraph["qas"], 1):
            values: dict[str, Any] = {**title, "context": paragraph["context"], **question}
            yield Record(values, f"{record.place}, paragraph {number}, question {index}")


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
