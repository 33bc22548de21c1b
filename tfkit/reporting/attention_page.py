"""The attention of a model to a text as one static HTML page: all heads as small pictures, and one enlarged, with lines between tokens.

The template attention.html.jinja contains the page's text, and the script attention.js draws the pictures from the weights (a byte each).
The page loads nothing, and runs no other script: its content security policy contains the hash of attention.js.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from tfkit import __version__
from tfkit.reporting.html_page import environment
from tfkit.reporting.visible_text import visible
from tfkit.run.card_facts import last_name

GENERATOR = "tfkit inspect"
_FULL, _UNSEEN = 250, 255  # the bytes of a weight of 1, and of a token that may not be seen; as in attention.js
_TITLES = {
    "encoder": ("Encoder", "Each token may look at all tokens of the text, those before it and those after it{window}."),
    "decoder": ("Decoder", "Each token may look at itself and at the tokens before it{window}, but at none after it."),
    "cross": ("Cross-attention", "Each token of the decoder may look at all tokens of the text that the encoder has read."),
}


@dataclass(frozen=True)
class KindRow:
    """A kind of heads: the number of its heads, the clearest ones (layer, head, score), and the meaning of the score."""

    letter: str
    name: str
    count: int
    clearest: Sequence[tuple[int, int, float]]
    meaning: str


@dataclass(frozen=True)
class ShownMap:
    """The weights of one kind of attention (L, H, T, S), which tokens are visible (L, T, S), and each head's kind and letter (L * H)."""

    name: str
    to: Sequence[str]
    from_: Sequence[str]
    weights: NDArray[np.float32]
    visible: NDArray[np.bool_]
    kinds: Sequence[KindRow]
    letters: Sequence[tuple[str, str]]
    chosen: tuple[int, int] | None = None  # the layer and head to enlarge at first, if the map has the layer; None: the clearest head

    @property
    def enlarged(self) -> tuple[int, int]:
        """The layer and head enlarged at first: `chosen`, or else the clearest head of a kind other than `spread` and `first token`.

        In a decoder, `first token` is the kind of most heads.
        """
        if self.chosen is not None and self.chosen[0] < len(self.weights):
            return self.chosen
        named = (head for kind in self.kinds if kind.name not in ("spread", "first token") for head in kind.clearest)
        return max(named, key=lambda head: head[2], default=(0, 0, 0.0))[:2]


@dataclass(frozen=True)
class NextRow:
    """A token of the text, the one that follows it (None at the end) with its probability, and the likeliest next tokens with theirs."""

    after: str
    follows: str | None
    probability: float | None
    likeliest: Sequence[tuple[str, float]]


def attention_page(
    model: str,
    tokens: Sequence[str],
    target_tokens: Sequence[str] | None,
    maps: Sequence[ShownMap],
    next_tokens: Sequence[NextRow],
    today: date,
) -> str:
    """Return the page as HTML."""
    made = environment()
    script = made.get_template("attention.js").render()  # included in the page
    page = made.get_template("attention.html.jinja").render(
        {"model": last_name(model), "generator": GENERATOR, "version": __version__, "today": today.isoformat()},
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tokens=tokens,
        target_tokens=target_tokens,
        maps=[_section(one) for one in maps],
        causal=any(one.name == "decoder" for one in maps),
        windowed=any(_has_window(one) for one in maps),
        marked=any(token.startswith(("Ġ", "▁")) for token in (*tokens, *(target_tokens or ()))),
        next_tokens=next_tokens,
    )
    return f"{page.strip()}\n"


def _section(map_: ShownMap) -> Mapping[str, object]:
    """Return the template's values for a map's section of the page."""
    title, explanation = _TITLES[map_.name]
    layers, heads = map_.weights.shape[:2]
    return {
        "name": map_.name,
        "title": title,
        "explanation": explanation.format(window=", no further away than its layer's window" if _has_window(map_) else ""),
        "layers": layers,
        "heads": heads,
        "layer": map_.enlarged[0],
        "head": map_.enlarged[1],
        "to": [visible(token) for token in map_.to],
        "from_": [visible(token) for token in map_.from_],
        "weights": base64.b64encode(_quantized(map_).tobytes()).decode(),
        "kinds": map_.kinds,
        "letters": [map_.letters[first : first + heads] for first in range(0, len(map_.letters), heads)],
    }


def _quantized(map_: ShownMap) -> NDArray[np.uint8]:
    steps = np.rint(map_.weights * _FULL).clip(0, _FULL).astype(np.uint8)
    return np.where(map_.visible[:, None], steps, np.uint8(_UNSEEN))


def _has_window(map_: ShownMap) -> bool:
    """Whether some token sees fewer tokens than without a window: than all, or in a decoder than itself and those before it."""
    everything = np.ones(map_.visible.shape[1:], np.bool_)
    return bool((map_.visible != (np.tril(everything) if map_.name == "decoder" else everything)).any())
