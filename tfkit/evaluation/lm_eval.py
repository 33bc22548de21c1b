"""tfkit's models for lm-evaluation-harness (the extra tfkit[lm-eval]).

`python -m tfkit.evaluation.lm_eval` is the harness' own command, and adds `--model tfkit --model_args checkpoint=RUN`. For checkpoints that
transformers can read, the harness' `--model hf` gives the same numbers, unless a token spans context and continuation (likelihood.py).
"""

from collections.abc import Sequence
from typing import Any

import lm_eval.models  # noqa: F401  # registers the harness' own models; the harness itself does this only if no model is registered yet
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

import tfkit
from tfkit.errors import ModelError, UsageError
from tfkit.evaluation.likelihood import Ids, Question, likelihoods, score_questions
from tfkit.generation.complete import complete
from tfkit.recipe.schema.output_sections import GenerationSection

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the harness' names for tfkit's max_new_tokens
_BATCH = 16
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams")


@register_model("tfkit")
class TfkitLM(LM):  # type: ignore[misc]  # the harness has no types
    """A language model of a checkpoint, run folder or Hugging Face folder."""

    def __init__(
        self, checkpoint: str, *, batch_size: int | str = _BATCH, device: str | None = None, dtype: str = "float32", max_gen_toks: int = 256
    ):
        """`max_gen_toks`: the largest number of new tokens if a task does not set it. Raises ModelError if the checkpoint has no language
        model or no tokenizer.
        """
        super().__init__()
        if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):  # the harness requests cuda even without a GPU
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = tfkit.load(checkpoint, device=device, dtype=getattr(torch, dtype))
        if loaded.config.head.kind != "lm" or loaded.codec is None:
            raise ModelError(f"{checkpoint}: the harness needs a language model with a tokenizer; this is not one")
        self.loaded, self.codec = loaded, loaded.codec
        self.batch_size, self.max_gen_toks = _BATCH if str(batch_size).startswith("auto") else int(batch_size), max_gen_toks
        self.start_id = loaded.start_id if loaded.config.encoder_layers else None

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return for each request log P(continuation | context), and whether greedy decoding would generate the continuation."""
        questions = [Question(*request.args) for request in requests]
        answers = likelihoods(self.loaded.model, self.codec, questions, self.batch_size, start_id=self.start_id)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, (answer.log_prob, answer.greedy))
        return [(answer.log_prob, answer.greedy) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text after bos or, if the tokenizer has no bos, after eos.

        As in the harness' own models, the special tokens that the tokenizer adds are part of the text: if it adds bos, the ids begin with
        two bos, and the second one is scored.
        """
        if self.start_id is not None:
            raise UsageError(f"{self.loaded.folder}: an encoder-decoder has no probability of a whole text")
        opening = self.codec.bos_id if self.codec.bos_id is not None else self.codec.eos_id
        before = [] if opening is None else [opening]
        texts = [request.args[0] for request in requests]
        encoded = [Ids(before + ids, 1, []) for ids in self.codec.encode_texts(texts)]
        answers = score_questions(self.loaded.model, [Question("", text) for text in texts], encoded, self.batch_size)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer.log_prob)
        return [answer.log_prob for answer in answers]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to one of the strings in the task's `until`, greedily unless the task configures sampling."""
        completions: dict[int, str] = {}
        kinds: dict[str, tuple[GenerationSection, list[int]]] = {}  # each distinct set of settings, and the indices of its requests
        for number, request in enumerate(requests):
            settings = self._settings(dict(request.args[1]))
            kinds.setdefault(settings.model_dump_json(), (settings, []))[1].append(number)
        for settings, numbers in kinds.values():
            for begin in range(0, len(numbers), self.batch_size):
                batch = numbers[begin : begin + self.batch_size]
                texts = self._continued([requests[number].args[0] for number in batch], settings, begin)
                completions |= dict(zip(batch, texts, strict=True))
        for number, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, completions[number])
        return [completions[number] for number in range(len(requests))]

    def _settings(self, kwargs: dict[str, Any]) -> GenerationSection:
        """Convert a task's `generation_kwargs` to tfkit's settings. Raises UsageError for an unknown key."""
        until = kwargs.pop("until", None) or []
        lengths = [kwargs.pop(name) for name in _LENGTHS if kwargs.get(name) is not None]
        temperature = float(kwargs.get("temperature") or 0.0)
        samples = kwargs.pop("do_sample", temperature > 0)
        if unknown := [name for name in kwargs if name not in _SAMPLING]:
            raise UsageError(f"generation_kwargs: {', '.join(unknown)}: tfkit knows until, do_sample, {', '.join((*_LENGTHS, *_SAMPLING))}")
        return GenerationSection.model_validate(
            {name: value for name, value in kwargs.items() if value is not None}
            | {
                "temperature": temperature if samples else 0.0,
                "stop": [until] if isinstance(until, str) else until,
                "max_new_tokens": int(lengths[0]) if lengths else self.max_gen_toks,
            }
        )

    def _continued(self, contexts: Sequence[str], settings: GenerationSection, first: int) -> list[str]:
        """Continue contexts, which are truncated on the left to fit the model and, in a decoder-only model, to leave room for
        `max_new_tokens`.

        `first`: the number of earlier contexts with these settings, so that each context has its own seed, whatever the batch size.
        """
        prompts = self.codec.encode_texts(contexts)
        room = length = self.loaded.config.context_length
        if self.start_id is None:
            prompts = [ids[: len(ids) - len(self.codec.suffix)] for ids in prompts]
            room -= settings.max_new_tokens
        if room <= 0:
            raise UsageError(f"max_gen_toks is {settings.max_new_tokens}, but the model's context is {length} tokens: lower it")
        completions = complete(
            self.loaded.model,
            self.codec,
            [ids[-room:] for ids in prompts],
            settings,
            eos_ids=self.loaded.eos_ids,
            start_id=self.start_id,
            first_row=first,
        )
        return [completion.text for completion in completions]


if __name__ == "__main__":
    cli_evaluate()
