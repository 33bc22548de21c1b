"""Text completion: encode prompts, generate ids, and decode them to text, each part of which is passed to a callback as soon as it is
final.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from tfkit.errors import ModelError
from tfkit.generation.decoding import Finish, generate
from tfkit.generation.next_token import Constraints
from tfkit.generation.partial_text import TextStream, complete_text_after, context_of
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.template import encode_rendered

OnText = Callable[[int, str], None]  # called with the index of a prompt and the next part of its continuation


@dataclass(frozen=True)
class TextCompletion:
    """The continuation of one prompt: its text, without a stop string that ended it, the number of generated tokens, and why it ended."""

    text: str
    tokens: int
    finish: Finish


def encode_prompts(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], *, rendered: bool = False) -> list[list[int]]:
    """Return the model's input ids of each prompt.

    The tokenizer adds its special tokens, as in training; for a decoder-only model, those after the text (such as eos) are left out, since
    they would end the text. `rendered`: the prompts are conversations rendered by a chat template, which has already written the special
    tokens into the text.
    """
    if rendered:
        return encode_rendered(tokenizer, prompts)
    encoded = tokenizer.encode_texts(prompts)
    return encoded if model.encoder is not None else [ids[: len(ids) - len(tokenizer.suffix)] for ids in encoded]


def complete(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt_ids: Sequence[list[int]],
    settings: GenerationSection,
    *,
    eos_ids: Collection[int] = (),
    start_id: int | None = None,
    on_text: OnText | None = None,
    should_stop: Callable[[], bool] | None = None,
    first_row: int = 0,
    constraints: Constraints = Constraints(),
    at_once: int | None = None,
) -> list[TextCompletion]:
    """Continue prompts, given as the ids of `encode_prompts`; an encoder-decoder generates a new text for each.

    `on_text` is called with the index of a prompt and each new part of its continuation; other parameters and errors: see `generate`.
    """
    check_vocabulary(prompt_ids, model.config.vocab_size)
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    contexts = [context_of(decode, ids) if model.encoder is None else [] for ids in prompt_ids]
    streams = [TextStream(decode, context, settings.stop, tokenizer.byte_ids) for context in contexts]

    def give(row: int, piece: str) -> None:
        if on_text is not None and piece:
            on_text(row, piece)

    def on_token(row: int, token: int) -> bool:
        give(row, streams[row].push(token))
        return streams[row].stopped

    def ended(row: int, ids: list[int]) -> bool:
        text = complete_text_after(decode, contexts[row], ids)
        return any(string in text for string in settings.stop if string)

    completions = generate(
        model,
        prompt_ids,
        settings,
        eos_ids=eos_ids,
        start_id=start_id,
        on_token=on_token,
        ended=ended if settings.stop else None,
        should_stop=should_stop,
        first_row=first_row,
        constraints=constraints,
        at_once=at_once,
    )
    for row, stream in enumerate(streams):
        give(row, stream.close())
    return [
        # The last bytes, which `close` adds, may complete a stop string; an interrupted row remains "interrupted".
        TextCompletion(stream.text, len(completion.ids), "stop" if stream.stopped and completion.finish == "length" else completion.finish)
        for stream, completion in zip(streams, completions, strict=True)
    ]


def check_vocabulary(rows: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raise ModelError if `rows`, which are lists of ids, have an id of `vocab_size` or more, which has no embedding."""
    largest = max((max(row) for row in rows if row), default=0)
    if largest >= vocab_size:
        raise ModelError(
            f"the tokenizer gives the id {largest:,}, but the model's vocabulary has {vocab_size:,} entries: they do not belong together"
        )
