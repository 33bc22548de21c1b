"""Splitting of long texts into pieces before encoding, only where a token always ends, so that the ids stay the same.

The `tokenizers` library needs about 200 bytes per token while it encodes, so encoding a text of 100 MB in one call would take many GB. The
library encodes the pieces of a batch in parallel threads.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

Item = TypeVar("Item")

PIECE = 1 << 18  # the smallest number of characters of a piece, except the last
BATCH = 1 << 22  # characters of a batch of pieces, whose encoding takes about 150 MB; a larger batch is no faster

# GPT-2's, Llama 3's and SmolLM2's patterns end a token wherever a run of letters or of digits ends; LETTER_BORDER finds such places in
# ASCII. For the pre-tokenizers of BERT and T5, SPACE_BORDER finds the ends of words before a space or a new line.
LETTER_BORDER = re.compile(r"[A-Za-z](?=[\0-@\[-`{-\x7f])|[0-9](?=[\0-/:-\x7f])")
SPACE_BORDER = re.compile(r"[A-Za-z0-9](?=[ \n])")


def safe_border(tokenizer_json: Mapping[str, Any], split_special_tokens: bool) -> re.Pattern[str] | None:
    """Return a pattern whose matches always end at the end of a token, so that texts may be cut there. None if no such pattern is known.

    Added tokens must not be cut either. If an added token contains white space, also matches the white space around it, or matches only as
    a whole word, the result is None. If LETTER_BORDER matches inside an added token that is parsed in texts, the result is SPACE_BORDER.
    `split_special_tokens`: whether special tokens in texts are not parsed.
    """
    added = tokenizer_json.get("added_tokens") or []
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] or re.search(r"\s", token["content"]) for token in added):
        return None
    normalizer, splitter = tokenizer_json.get("normalizer") or {}, tokenizer_json.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", []) if splitter.get("type") == "Sequence" else [splitter]
    kinds = [step.get("type") for step in steps]
    if not normalizer and kinds[-1:] == ["ByteLevel"] and _splits_as_gpt2(steps):
        crosses = any(LETTER_BORDER.search(token["content"]) and not (token["special"] and split_special_tokens) for token in added)
        return SPACE_BORDER if crosses else LETTER_BORDER
    if kinds == ["BertPreTokenizer"] and normalizer.get("type") in (None, "BertNormalizer"):
        return SPACE_BORDER
    if not normalizer and kinds == ["WhitespaceSplit", "Metaspace"] and steps[1].get("prepend_scheme") == "always":
        return SPACE_BORDER
    return None


def _splits_as_gpt2(steps: list[dict[str, Any]]) -> bool:
    """Whether a pre-tokenizer whose last step is ByteLevel is one known to end a token wherever a run of letters or of digits ends."""
    *before, byte_level = steps
    if byte_level.get("add_prefix_space", True):
        return False
    if [step.get("type") for step in before] == ["Split"]:
        known = before[0].get("behavior") == "Isolated" and not before[0].get("invert")
        return known and before[0].get("pattern") == {"Regex": LLAMA3} and not byte_level.get("use_regex", True)
    return all(step.get("type") == "Digits" for step in before) and byte_level.get("use_regex", True)


# From Meta's llama-models, tokenizer.py. It differs from GPT-2's pattern: digits form groups of at most three, a word may begin with one
# sign of any kind, not only with a space, and new lines are separate.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def pieces(text: str, length: int = PIECE, border: re.Pattern[str] = LETTER_BORDER) -> Iterator[str]:
    """Yield the text in pieces, each of which ends at the first border after `length` characters or, without one, at the text's end."""
    start = 0
    while len(text) - start > length:
        match = border.search(text, start + length - 1)
        if match is None:
            break
        yield text[start : match.end()]
        start = match.end()
    if start < len(text) or not text:
        yield text[start:]


def batches(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Yield the items in lists; a list ends with the item by which its total size reaches `limit`."""
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
