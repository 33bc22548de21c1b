"""Checks of the data before the first step, for faults that would silently train a model wrongly."""

from collections.abc import Sequence
from itertools import islice

from tfkit.data import ExampleSet, Source
from tfkit.errors import DataError
from tfkit.objectives.context import LONGER_ROWS, Stored
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer

_ROWS = 1_000  # of each source that are checked
_HEAD = 256  # characters: more than any special token has


def check_openings(sources: Sequence[Source], roles: Sequence[Role], tokenizer: Tokenizer) -> None:
    """Raise DataError if a text begins with the special token that the tokenizer puts before every text.

    A tokenizer that `reads_openings_twice` then encodes it twice, which the model never sees when it generates.
    """
    opening = tokenizer.prefix[-1]
    for source in sources:
        heads = [
            (row.place, role.name, str(row.values[role.name])[:_HEAD])
            for row in islice(source.rows(), _ROWS)
            for role in roles
            if role.form == "text" and role.name in row.values
        ]
        encoded = tokenizer.encode_texts([text for *_, text in heads])
        for (place, name, _), ids in zip(heads, encoded, strict=True):
            if ids[len(tokenizer.prefix) : len(tokenizer.prefix) + 1] == [opening]:
                token = tokenizer.backend.id_to_token(opening)
                raise DataError(
                    f"{place}: the {name} begins with {token}, which the tokenizer puts before every text: the model would see it twice; "
                    "remove it from the texts of this source, or use a tokenizer that puts none there"
                )


def check_lost(stored: Sequence[Stored], limit: float) -> None:
    """Raise DataError if more than the fraction `limit` of the rows of a source was skipped, or truncated."""
    for one in stored:
        skipped = sum(kind.rows for kind in one.skipped.values())
        if skipped > limit * (len(one) + skipped):
            raise DataError(f"{one.describe_skipped()}; of {len(one) + skipped:,} rows{_over(limit)}; repair them, or raise the limit")
        if isinstance(one, ExampleSet) and one.truncated > limit * len(one):
            raise DataError(f"{one.describe()}{_over(limit)}; {LONGER_ROWS}, shorten the rows, or raise the limit")


def _over(limit: float) -> str:
    return f": more than data.max_lost, {limit:.4g}, allows"
