"""Continuing texts: encode, decode with a cache, and give text back as it becomes certain."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from tfkit.errors import ModelError
from tfkit.generation.constraints import Constraints
from tfkit.generation.decoding import Finish, generate
from tfkit.generation.partial_text import TextStream, context_of, text_behind
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.sections import GenerationSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.template import encode_rendered

OnText = Callable[[int, str], None]


@dataclass(frozen=True)
class TextCompletion:
    """The continuation of one prompt: its text up to a stop string, the tokens that were made, and why it ends."""

    text: str
    tokens: int
    finish: Finish


def complete(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: GenerationSection,
    *,
    eos_ids: Collection[int] = (),
    start_id: int | None = None,
    on_text: OnText | None = None,
    should_stop: Callable[[], bool] | None = None,
    first_row: int = 0,
    rendered: bool = False,
    constraints: Constraints = Constraints(),
) -> list[TextCompletion]:
    """Continue each text, or answer it: what an encoder reads is a whole text, and the decoder's is one of its own.

    For the ids of the prompts see `encode_prompts`, for the rest `complete_ids`.
    """
    return complete_ids(
        model,
        tokenizer,
        encode_prompts(model, tokenizer, prompts, rendered=rendered),
        settings,
        eos_ids=eos_ids,
        start_id=start_id,
        on_text=on_text,
        should_stop=should_stop,
        first_row=first_row,
        constraints=constraints,
    )


def encode_prompts(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], *, rendered: bool = False) -> list[list[int]]:
    """The ids that the model reads of each prompt.

    Of a prompt to be continued they are those that the tokenizer's template puts before and into a text, as in training; what it puts
    after one would end the text. With `rendered` the prompts are conversations from a chat template, whose special tokens are written out.
    """
    if rendered:
        return encode_rendered(tokenizer, prompts)
    found = tokenizer.encode_texts(prompts)
    return found if model.encoder is not None else [ids[: len(ids) - len(tokenizer.suffix)] for ids in found]


def complete_ids(
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
) -> list[TextCompletion]:
    """The same of prompts that are ids already.

    `on_text(i, piece)` gets what is certain of completion i; the pieces joined are its text. For the rest see `generate`.
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
        text = text_behind(decode, contexts[row], ids)
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
    )
    for row, stream in enumerate(streams):
        give(row, stream.close())
    return [
        # A stop string may appear as the last bytes are given out; in a row that was interrupted they are not the last.
        TextCompletion(stream.text, len(completion.ids), "stop" if stream.stopped and completion.finish == "length" else completion.finish)
        for stream, completion in zip(streams, completions, strict=True)
    ]


def check_vocabulary(rows: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raise ModelError if an id has no row in the embedding."""
    largest = max((max(row) for row in rows if row), default=0)
    if largest >= vocab_size:
        raise ModelError(
            f"the tokenizer gives the id {largest:,}, but the model's vocabulary has {vocab_size:,} entries: they do not belong together"
        )
