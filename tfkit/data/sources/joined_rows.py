"""Single completions of the same prompt, each good or bad, joined into one row: as the rows of KTO (arXiv 2402.01306) are preferences.

The rows are read whole before the first is given, since a prompt may come back at the end of a file.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tfkit.data.columns.preference_forms import is_whole, read_flag
from tfkit.data.columns.rows import Row, Skipped, Source
from tfkit.recipe.schema.roles import Role

UNPAIRED = "unpaired"  # the shape of such rows
MOST = 8  # completions of a row, about
_VERSION = 1


def with_joined_rows(source: Source, roles: Sequence[Role]) -> Source:
    """Return the source, its unpaired rows joined, of an objective whose rows may have that shape."""
    return JoinedRows(source) if any(role.shape == UNPAIRED for role in roles) else source


@dataclass(frozen=True)
class JoinedRows:
    """A source whose rows with a `completion` and a `label` are joined to rows with `completions` and `labels`, of a prompt each.

    A prompt with many completions has several rows, of about eight completions each, good and bad ones: a row is compared pair by pair.
    The order is that of the first row of each prompt. Rows of other shapes are as they were, and read as a stream.
    """

    source: Source

    @property
    def name(self) -> str:
        """That of the source."""
        return self.source.name

    @property
    def size_bytes(self) -> int:
        """Those of the source."""
        return self.source.size_bytes

    def describe(self) -> str:
        """Describe the source."""
        return self.source.describe()

    def fingerprint(self) -> str:
        """Return that of the source, with the version of the joining."""
        return f"{self.source.fingerprint()}\0joined {_VERSION}"

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield the rows. Raises DataError as the source does."""
        rows = self.source.rows(skipped)
        first = next(rows, None)
        if first is None:
            return
        if "completion" not in first.values:
            yield first
            yield from rows
            return
        of_prompt: dict[str, list[Row]] = {}
        for row in map(_divided, chain([first], rows)):
            of_prompt.setdefault(json.dumps(row.values.get("prompt", "")), []).append(row)
        for several in of_prompt.values():
            yield from map(_joined, _dealt(several))


def _divided(row: Row) -> Row:
    """Return a row whose completion is a whole conversation with its last message as the completion, and those before as the prompt."""
    messages = row.values["completion"]
    if not isinstance(messages, list) or not is_whole(messages):
        return row
    return row._replace(values={**row.values, "prompt": messages[:-1], "completion": messages[-1:]})


def _dealt(rows: list[Row]) -> list[list[Row]]:
    """Deal the rows of a prompt into parts of about MOST, each with good and bad ones, as many as there are of either."""
    flags = [read_flag(str(row.values["label"])) for row in rows]
    good, bad = ([row for row, flag in zip(rows, flags, strict=True) if flag is side] for side in (True, False))
    count = min(-(-len(rows) // MOST), len(good), len(bad))
    if count < 2 or None in flags:
        return [rows]
    return [[*good[number::count], *bad[number::count]] for number in range(count)]


def _joined(rows: list[Row]) -> Row:
    first, names = rows[0], ("completion", "label")
    values = {name: value for name, value in first.values.items() if name not in names}
    values |= {f"{name}s": [row.values[name] for row in rows] for name in names}
    return first._replace(text="\n".join(row.text for row in rows), key="\n".join(row.key for row in rows), values=values)
