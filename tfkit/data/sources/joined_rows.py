"""Joining of unpaired preferences, as in KTO (arXiv 2402.01306): completions of one prompt, each labelled good or bad, become one row.

All rows are read before the first is yielded, since a prompt may recur at the end of a file.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from tfkit.data.columns.preference_forms import is_whole, read_flag
from tfkit.data.columns.rows import Row, Skipped, Source

UNPAIRED = "unpaired"  # the shape of a row with one labelled completion
COMPLETIONS = 8  # in a joined row, approximately
_VERSION = 2


@dataclass(frozen=True)
class JoinedRows:
    """A source whose rows with a `completion` and a `label` are joined into rows with `completions` and `labels`, one for each prompt.

    A prompt with many completions gives several rows of about eight completions, with good and bad ones in each, since all pairs in a row
    are compared; with one good and 200 bad ones the good one is in each row. Rows are in the order in which their prompts first occur. A
    source with rows of another shape is passed on as a stream.
    """

    source: Source

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    @property
    def size_bytes(self) -> int | None:
        """The size of the source."""
        return self.source.size_bytes

    def describe(self) -> str:
        """Describe the source."""
        return self.source.describe()

    def fingerprint(self) -> str:
        """Return the source's fingerprint, with the version of the joining."""
        return f"{self.source.fingerprint()}\0joined {_VERSION}"

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield the joined rows. Raises DataError as the source does."""
        rows = self.source.rows(skipped)
        first = next(rows, None)
        if first is None:
            return
        if "completion" not in first.values:
            yield first
            yield from rows
            return
        by_prompt: dict[str, list[Row]] = {}
        for row in map(_split_prompt, chain([first], rows)):
            by_prompt.setdefault(json.dumps(row.values.get("prompt", "")), []).append(row)
        for group in by_prompt.values():
            yield from map(_join, _divide(group))


def _split_prompt(row: Row) -> Row:
    """Split a completion that is a whole conversation: its last message becomes the completion, and the messages before it the prompt."""
    messages = row.values["completion"]
    if not isinstance(messages, list) or not is_whole(messages):
        return row
    return row._replace(values={**row.values, "prompt": messages[:-1], "completion": messages[-1:]})


def _divide(rows: list[Row]) -> list[list[Row]]:
    """Divide the rows of a prompt into groups of about COMPLETIONS, each with at least one good and one bad row.

    If there are fewer rows of one kind than groups, they are in several groups, one in each.
    """
    flags = [read_flag(str(row.values["label"])) for row in rows]
    kinds = [[row for row, flag in zip(rows, flags, strict=True) if flag is is_good] for is_good in (True, False)]
    rarer, other = sorted(map(len, kinds))
    count = -(-len(rows) // COMPLETIONS)
    if count < 2 or not rarer or None in flags:
        return [rows]
    if count > rarer:
        count = -(-other // (COMPLETIONS - 1))
    return [[row for kind in kinds for row in kind[number::count] or [kind[number % len(kind)]]] for number in range(count)]


def _join(rows: list[Row]) -> Row:
    first, names = rows[0], ("completion", "label")
    values = {name: value for name, value in first.values.items() if name not in names}
    values |= {f"{name}s": [row.values[name] for row in rows] for name in names}
    return first._replace(text="\n".join(row.text for row in rows), key="\n".join(row.key for row in rows), values=values)
