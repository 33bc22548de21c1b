"""Text generation with a checkpoint, which continues texts, answers conversations or, if it is a masked language model, fills masks."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfkit.engine.inference.prompt_lines import MOST_PROMPTS, Prompt, given_prompts
from tfkit.engine.inference.session import Session, open_model
from tfkit.engine.request.evaluation_settings import read_settings
from tfkit.engine.request.inputs import inputs_of
from tfkit.engine.request.run_totals import finalize_killed_run
from tfkit.engine.results import Completion
from tfkit.errors import DataError, ModelError, UsageError, argument
from tfkit.generation.answer_precision import Precision
from tfkit.generation.complete import OnText, TextCompletion, complete, encode_prompts
from tfkit.generation.config_file import SHOWN, CheckpointSettings, checkpoint_settings, describe
from tfkit.generation.decoding import AT_ONCE
from tfkit.generation.fill import Filling, fill
from tfkit.hub import Loaded, find_checkpoint
from tfkit.recipe.reading.overrides import Overrides, given_sections
from tfkit.recipe.reading.tree import flatten
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.template import ChatTemplate, open_template
from tfkit.tokenizer.tool_calls import read_tools, with_plain_calls
from tfkit.units import format_number_of

__all__ = ["TextCompletion", "TextGenerator"]
_SECTIONS = ("generation", "carbon")
_PURPOSES = {
    "none": "has no head: it gives hidden states, which represent texts and their tokens",
    "classes": "gives the class of a text, or a number for it",
    "tags": "gives a tag for each token of a text",
    "spans": "marks the answer to a question in its context",
}


class TextGenerator:
    """Generates text with the settings of the checkpoint's run, changed by the checkpoint's generation_config.json, then by `overrides`.

    The model is loaded by `load`, or handed over to `use`. `chat`: prompts are conversations. `files`: the files that hold the prompts.
    """

    def __init__(
        self, checkpoint: str, overrides: Overrides, *, chat: bool = False, files: Sequence[Path] = (), precision: Precision = "auto"
    ):
        finalize_killed_run(checkpoint)
        self.folder = find_checkpoint(checkpoint)
        self.overrides, self.chat, self.precision = overrides, chat, precision
        self.settings = read_settings(None, self.folder, overrides, _SECTIONS)
        self.inputs = inputs_of(files, [], [self.folder, checkpoint])

    def load(self, session: Session) -> None:
        """Load the model. Raises ModelError if it generates no text, UsageError for a chat or generation settings if it fills masks."""
        self.use(open_model(self.folder, session, self.inputs, self.precision).loaded, session)

    def use(self, loaded: Loaded, session: Session) -> None:
        """Generate with the model `loaded`. Raises the same errors as `load`."""
        self.session, self.loaded = session, loaded
        self.codec = loaded.require_tokenizer()
        self.fills_masks = self._check_kind()
        self.decided = self._decide()

    @property
    def continues_prompts(self) -> bool:
        """Whether the generated text continues the prompt; it is a separate text in a chat and for an encoder-decoder."""
        return not self.chat and self.loaded.model.encoder is None

    def complete(
        self, texts: Sequence[str], first_row: int = 0, on_text: OnText | None = None, should_stop: Callable[[], bool] | None = None
    ) -> list[TextCompletion]:
        """Continue each text; in a chat, `texts` are rendered conversations. `first_row`: the index of the first text, to seed sampling."""
        return complete(
            self.loaded.model,
            self.codec,
            encode_prompts(self.loaded.model, self.codec, texts, rendered=self.chat),
            self.decided.settings,
            constraints=self.decided.constraints,
            eos_ids=self.loaded.eos_ids,
            start_id=self.loaded.start_id,
            should_stop=should_stop or self.session.stop.should_stop,
            first_row=first_row,
            on_text=on_text,
            at_once=AT_ONCE,
        )

    def all_completions(self, prompts: object) -> list[Completion]:
        """Complete the prompts of a call in Python. Raises Stopped after a batch in which a signal came, and errors of `given_prompts`."""
        everything = given_prompts(prompts, self.chat)
        completions: list[Completion] = []
        for first in range(0, len(everything), MOST_PROMPTS):
            completions += self._completions(everything[first : first + MOST_PROMPTS], first)
            self.session.stop.raise_if_requested(f"{format_number_of(len(completions), 'prompt')} continued")
        return completions

    def fill(self, texts: Sequence[str], first_row: int = 0) -> list[Filling]:
        """Fill the masks of each text. `first_row`: the index of the first text, for error messages."""
        return fill(self.loaded.model, self.codec, texts, first_row=first_row)

    def template(self) -> ChatTemplate:
        """Return the checkpoint's chat template, to be used in a with block. Raises ModelError if the checkpoint has none."""
        return open_template(self.codec, self.loaded.folder)

    def conversation_text(self, template: ChatTemplate, messages: Sequence[Mapping[str, Any]], tools: Any, place: str) -> str:
        """Return a conversation as text, up to where its answer begins. `tools`: the functions that the model may call, or None.

        Raises DataError for invalid tools or calls, ModelError if the template refuses the conversation or shows no tools.
        """
        try:
            plain, functions = [with_plain_calls(message) for message in messages], read_tools(tools) if tools else []
        except UnfitError as error:
            raise DataError(f"{place}: {error}") from None
        text = template.render(plain, tools=functions, add_generation_prompt=True, place=place)
        if functions and template.render(plain, add_generation_prompt=True, place=place) == text:
            raise ModelError(f"{self.folder}: the chat template does not show tools; take a checkpoint that was trained with tools")
        return text

    def _completions(self, prompts: Sequence[Prompt], first: int) -> list[Completion]:
        shown = [json.dumps(one.given or one.messages, ensure_ascii=False, default=str) if one.messages else one.text for one in prompts]
        if self.fills_masks:
            filled = zip(shown, self.fill(shown, first), strict=True)
            return [Completion(prompt, one.text, len(one.candidates), "stop") for prompt, one in filled]
        texts = shown
        if self.chat:
            with self.template() as template:
                texts = [self.conversation_text(template, one.conversation, one.tools, one.place) for one in prompts]
        completed = zip(shown, self.complete(texts, first), strict=True)
        return [Completion(prompt, one.text, one.tokens, one.finish) for prompt, one in completed]

    def _check_kind(self) -> bool:
        """Return whether the model fills masks rather than continuing texts. Raises the errors that `load` names."""
        kind = self.loaded.config.head.kind
        if kind in _PURPOSES:
            raise ModelError(
                f"{self.loaded.folder}: this model {_PURPOSES[kind]}, and it writes no text; generate takes language models, which "
                "continue a text, and masked ones, which fill each [MASK]"
            )
        if kind == "masked_lm" and self.chat:
            raise UsageError(
                f"this is a masked language model: it fills each [MASK] of a text, and does not answer; leave {argument('chat', True)} out"
            )
        unread = [name for name in flatten(dict(self.overrides)) if name.startswith("generation.")]
        if kind == "masked_lm" and unread:
            raise UsageError(
                f"this is a masked language model: it does not sample, so {', '.join(unread)} would have no effect; leave that out"
            )
        return kind == "masked_lm"

    def _decide(self) -> CheckpointSettings:
        """Merge the settings of the run, generation_config.json and the overrides; report which are used and which are ignored."""
        decided = checkpoint_settings(
            self.loaded.generation,
            self.settings.generation,
            given_sections(self.overrides).get("generation", {}),
            encodes=self.loaded.model.encoder is not None,
            vocab_size=self.loaded.config.vocab_size,
            folder=self.loaded.folder,
        )
        listener = self.session.listener
        if self.fills_masks:
            return decided
        others = {name: value for name, value in decided.taken.items() if name not in SHOWN}
        taken = "".join(f", {name}={json.dumps(value)}" for name, value in others.items())
        listener.say(
            f"{describe(decided.settings)}; at most {decided.settings.max_new_tokens:,} tokens{taken}: by the checkpoint's "
            f"generation_config.json, unless options such as {argument('temperature')} say otherwise"
        )
        if decided.unread:
            names = ", ".join(f"generation.{name}" for name in decided.unread)
            listener.warn(f"beam search does not sample, so {names} has no effect; leave that out, or set generation.num_beams=1")
        if decided.unsupported:
            listener.warn(f"generation_config.json: not supported and ignored: {', '.join(decided.unsupported)}")
        return decided
