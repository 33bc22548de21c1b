"""tfkit generate on models that continue no text: a masked language model fills the masks of prompts, others say what they are for."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tfkit import console
from tfkit.cli.prompts import Prompt
from tfkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from tfkit.hub import Loaded

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


def fill_text(loaded: "Loaded", text: str) -> int:
    """Write a text with its masks filled. Returns the tokens filled in."""
    from tfkit.generation.fill import fill

    assert loaded.codec is not None
    [filling] = fill(loaded.model, loaded.codec, [text])
    console.result(filling.text)
    return len(filling.candidates)


def fill_lines(loaded: "Loaded", prompts: Sequence[Prompt], first: int) -> list[dict[str, Any]]:
    """What the JSON line of docs/cli.md says of each prompt, with the candidates; `first`: the number of the first prompt."""
    from tfkit.generation.fill import fill

    assert loaded.codec is not None
    fillings = fill(loaded.model, loaded.codec, [prompt.text for prompt in prompts], first_row=first)
    return [
        {
            "completion": filling.text,
            "tokens": len(filling.candidates),
            "finish": "stop",
            "candidates": [[asdict(candidate) for candidate in row] for row in filling.candidates],
        }
        for filling in fillings
    ]
