"""tfkit generate on models that continue no text: a masked language model fills the masks of prompts, others say what they are for."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from tfkit import console
from tfkit.cli.prompts import Prompt
from tfkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tfkit.cli.session import Session
    from tfkit.hub import Loaded

_BATCH = 16  # prompts that are filled at once
_PURPOSES = {
    "none": "has no head: it gives hidden states, which stand for texts and their tokens",
    "classes": "gives the class of a text, or a number for it",
    "tags": "gives a tag for each token of a text",
}


def fills_masks(loaded: "Loaded", chat: bool, overrides: Sequence[str]) -> bool:
    """Whether the model fills masks, rather than continue texts.

    Raises ModelError if it does neither, UsageError for a chat with it, or for settings of generation, which nothing would read.
    """
    kind = loaded.config.head.kind
    if kind in _PURPOSES:
        raise ModelError(
            f"{loaded.folder}: this model {_PURPOSES[kind]}, and it writes no text; generate takes language models, which continue a text, "
            "and masked ones, which fill each [MASK]"
        )
    if kind == "masked_lm" and chat:
        raise UsageError("this is a masked language model: it fills each [MASK] of a text, and answers nothing; leave --chat out")
    if kind == "masked_lm" and (unread := [word.partition("=")[0] for word in overrides if word.startswith("generation.")]):
        raise UsageError(f"this is a masked language model: it draws nothing, so {', '.join(unread)} would not be read; leave that out")
    return kind == "masked_lm"


def fill_masks(loaded: "Loaded", prompts: Sequence[Prompt], work: "Session", as_text: bool) -> int:
    """Each prompt with its masks filled, as text or as the JSON line of docs/cli.md with the candidates. Gives the tokens filled in."""
    from tfkit.generation.fill import fill

    assert loaded.codec is not None
    tokens = 0
    for first in range(0, len(prompts), _BATCH):
        work.signals.raise_if_requested(f"{first:,} of {len(prompts):,} prompts were filled")
        batch = prompts[first : first + _BATCH]
        fillings = fill(loaded.model, loaded.codec, [prompt.text for prompt in batch], first_row=first)
        for prompt, filling in zip(batch, fillings, strict=True):
            tokens += len(filling.candidates)
            if as_text:
                console.result(filling.text)
                continue
            candidates = [[asdict(candidate) for candidate in row] for row in filling.candidates]
            line = {"completion": filling.text, "tokens": len(filling.candidates), "finish": "stop", "candidates": candidates}
            console.json(prompt.given | line)
    return tokens
