"""Long texts cut where GPT-2's pre-tokenizer cuts anyway: the ids stay the same, memory stays bounded, and all threads have work.

The `tokenizers` library holds about 200 bytes a token while it encodes, so a text of 100 MB in one call would take many GB.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

Item = TypeVar("Item")

PIECE = 1 << 18  # characters
BATCH = 1 << 22  # characters: twice as many are no faster and take twice the memory, about 150 MB

# GPT-2's pattern begins a new token wherever a run of letters or of digits ends; in ASCII that is easily seen.
_BORDER = re.compile(r"[A-Za-z](?=[\0-@\[-`{-\x7f])|[0-9](?=[\0-/:-\x7f])")


def has_safe_cuts(tokenizer_json: Mapping[str, Any]) -> bool:
    """Whether a tokenizer splits as GPT-2's and nothing of its own reaches over a border: no normalizer, no added token with space."""
    splits = tokenizer_json.get("pre_tokenizer") or {}
    added = tokenizer_json.get("added_tokens") or []
    return (
        splits.get("type") == "ByteLevel"
        and splits.get("use_regex", True)
        and not splits.get("add_prefix_space", True)
        and tokenizer_json.get("normalizer") is None
        and not any(token["lstrip"] or token["rstrip"] or token["single_word"] or re.search(r"\s", token["content"]) for token in added)
    )


def pieces(text: str, length: int = PIECE) -> Iterator[str]:
    """The text in parts of `length` characters and up to the next border; where no border comes, one long part."""
    start = 0
    while len(text) - start > length:
        border = _BORDER.search(text, start + length - 1)
        if border is None:
            break
        yield text[start : border.end()]
        start = border.end()
    if start < len(text) or not text:
        yield text[start:]


def batches(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """The items in lists, each closed by the item that brings it to `limit`."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
