"""What the `tokenizers` library raises over a damaged or hostile tokenizer.json, as an error that names the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from tfkit.errors import ModelError


@contextmanager
def broken_tokenizer(place: str = "tokenizer.json") -> Iterator[None]:
    """Raise ModelError for the Exception itself that the library raises, for ValueError, and for a panic of its rust."""
    try:
        yield
    except BaseException as error:
        if type(error) not in (Exception, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{place}: not a usable tokenizer ({error}); copy the folder again or take the tokenizer of its origin") from error
