"""The attention of a model in a text as one static HTML page: a small picture of each head, one of them enlarged with lines between tokens.

The template attention.html.jinja has the text of the page. The script attention.js draws the pictures from the weights, each of which is
stored in a byte. The page loads nothing, and can run only this script, because its content security policy has the hash of attention.js.
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
_FULL, _UNSEEN = 250, 255  # the byte for a weight of 1, and that for a key hidden from the query; attention.js has both
_TITLES = {
    "encoder": ("Encoder", "Each token may look at all tokens of the text, those before it and those after it{window}."),
    "decoder": ("Decoder", "Each token may look at itself and at the tokens before it{window}, but at none after it."),
    "cross": ("Cross-attention", "Each token of the decoder may look at all tokens of the text that the encoder has read."),
}


@dataclass(frozen=True)
class KindRow:
    """A kind of attention heads, such as those that attend to the previous token, and the heads of this kind."""

    letter: str
    name: str
    count: int  # number of heads of this kind
    clearest: Sequence[tuple[int, int, float]]  # layer, head and score of the heads with the highest scores
    meaning: str  # what the scores mean


@dataclass(frozen=True)
class ShownMap:
    """The attention of all layers of an encoder, of a decoder, or from decoder to encoder. L: layers, H: heads, T: queries, S: keys."""

    name: str  # encoder, decoder or cross
    to: Sequence[str]  # the query tokens
    from_: Sequence[str]  # the key tokens
    weights: NDArray[np.float32]  # (L, H, T, S)
    visible: NDArray[np.bool_]  # whether a query may attend to a key, (L, T, S)
    kinds: Sequence[KindRow]
    letters: Sequence[tuple[str, str]]  # for each head, layer by layer: its kind, and the letter of this kind; (L * H)
    chosen: tuple[int, int] | None = None  # the layer and head that is enlarged first; None: the property `enlarged` chooses one

    @property
    def enlarged(self) -> tuple[int, int]:
        """The layer and head that is enlarged first: `chosen`, if the map has this layer, or else the head with the highest score.

        Heads of the kinds `spread` and `first token`, to which most heads of a decoder belong, are not considered.
        """
        if self.chosen is not None and self.chosen[0] < len(self.weights):
            return self.chosen
        named = (head for kind in self.kinds if kind.name not in ("spread", "first token") for head in kind.clearest)
        return max(named, key=lambda head: head[2], default=(0, 0, 0.0))[:2]


@dataclass(frozen=True)
class NextRow:
    """The predictions of the model after a token of the text."""

    after: str  # the token
    follows: str | None  # the next token of the text; None at the end of the text
    probability: float | None  # of `follows`
    likeliest: Sequence[tuple[str, float]]  # the most likely next tokens, with their probabilities


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
    script = made.get_template("attention.js").render()  # exactly as in the page, which also has a hash of it
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
    """Return the values with which the template fills the section on one map."""
    title, explanation = _TITLES[map_.name]
    layers, heads = map_.weights.shape[:2]
    steps = np.rint(map_.weights * _FULL).clip(0, _FULL).astype(np.uint8)
    stored = np.where(map_.visible[:, None], steps, np.uint8(_UNSEEN))
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
        "weights": base64.b64encode(stored.tobytes()).decode(),
        "kinds": map_.kinds,
        "letters": [map_.letters[first : first + heads] for first in range(0, len(map_.letters), heads)],
    }


def _has_window(map_: ShownMap) -> bool:
    """Whether attention is limited to a window. Otherwise each token sees all tokens or, in a decoder, itself and all tokens before it."""
    everything = np.ones(map_.visible.shape[1:], np.bool_)
    return bool((map_.visible != (np.tril(everything) if map_.name == "decoder" else everything)).any())
