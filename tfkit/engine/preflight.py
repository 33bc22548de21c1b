"""What would train a model wrongly without a word, looked for in the data before the first step."""

from collections.abc import Sequence
from itertools import islice

from tfkit.data import ExampleSet, Source, TokenStream
from tfkit.engine.listener import Listener
from tfkit.errors import DataError
from tfkit.objectives.registry import Stored
from tfkit.recipe.schema.objective_sections import trained_for
from tfkit.recipe.schema.roles import Role
from tfkit.recipe.schema.sections import Recipe
from tfkit.tokenizer import Tokenizer

_ROWS = 1_000  # of each source that are looked at
_HEAD = 256  # characters: more than any special token has


def check_openings(sources: Sequence[Source], roles: Sequence[Role], tokenizer: Tokenizer) -> None:
    """Raise DataError where a text begins with the special token that the tokenizer puts before every text.

    A tokenizer that reads special tokens in a text gives it twice then, which the model never sees when it writes.
    """
    if not tokenizer.prefix or tokenizer.backend.encode_special_tokens:  # then no text has one
        return
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


def check_stored(recipe: Recipe, stored: Sequence[Stored], tokenizer: Tokenizer, length: int, finished: bool, listener: Listener) -> None:
    """Look at what was made of the training sources, for rows of `length`. `finished`: the tokenizer was not trained for this run.

    Raises DataError.
    """
    if recipe.data.max_lost is not None:
        _check_lost(stored, recipe.data.max_lost)
    if trained_for(recipe.objective).kind == "causal_lm":
        _warn_of_endless_texts([one for one in stored if isinstance(one, TokenStream)], tokenizer, length, finished, listener)


def _warn_of_endless_texts(streams: Sequence[TokenStream], tokenizer: Tokenizer, length: int, finished: bool, listener: Listener) -> None:
    """Say that the model will not learn to end a text: because nothing marks the end, or because no end is in a row."""
    if tokenizer.eos_id is None and not tokenizer.suffix:
        if not finished:  # then that is how its kind was published: GPT's
            return
        listener.warn(
            "the tokenizer has no token that ends a text, so the model does not learn to end one; name the eos_token in its "
            "tokenizer_config.json, if it has one"
        )
    elif not any(_first_end(stream, tokenizer) <= (len(stream.tokens) - 1) // length * length for stream in streams):
        names = ", ".join(stream.name for stream in streams)
        listener.warn(
            f"{names}: no text ends within a row of {length} tokens that is trained on, so the model does not learn to end one; "
            "give each text a row of its own, if it should"
        )


def _check_lost(stored: Sequence[Stored], limit: float) -> None:
    """Raise DataError if more than this share of the rows of a source was skipped, or cut to the context."""
    for one in stored:
        skipped = sum(kind.rows for kind in one.skipped.values())
        if skipped > limit * (len(one) + skipped):
            raise DataError(f"{one.describe_skipped()}; of {len(one) + skipped:,} rows{_over(limit)}; repair them, or raise the limit")
        if isinstance(one, ExampleSet) and one.truncated > limit * len(one):
            raise DataError(f"{one.describe()}{_over(limit)}; set a larger model.context_length, shorten the rows, or raise the limit")


def _over(limit: float) -> str:
    return f": more than data.max_lost, {limit:.4g}, allows"


def _first_end(stream: TokenStream, tokenizer: Tokenizer) -> int:
    """The place of the first id that ends a text: its last one, or the next text's first, where that ends one and begins the other."""
    last = int(stream.starts[1]) - 1
    ends = {tokenizer.eos_id, *tokenizer.suffix[-1:]}
    return last if int(stream.tokens[last]) in ends else last + 1
