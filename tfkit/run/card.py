"""The model card: README.md of a checkpoint, with the carbon that the Hub reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfkit.carbon.card_fields import co2_block, co2_sentence
from tfkit.carbon.reading import Reading
from tfkit.model.config import ClassesHeadConfig, MaskedLanguageModelHeadConfig, ModelConfig, NoHeadConfig, TagsHeadConfig
from tfkit.run.machine import processor


def model_card(
    *,
    name: str,
    kind: str,
    config: ModelConfig,
    architecture: str | None,
    parameters: int,
    progress: dict[str, Any],
    evaluation: dict[str, float | None],
    data: list[str],
    reading: Reading,
    averaged: str = "",
    base: Path | None = None,
) -> str:
    """Return Markdown with YAML front matter. `kind` is "pre-training" or "fine-tuning"; `architecture` is transformers' class for it, if
    there is one; `averaged` names the weights whose mean these are; `base` is the model that these are updates of, if they are.
    """
    carbon = co2_block(reading, kind, processor()["name"])
    task, example = _use(config)
    library = "tfkit" if architecture is None else "transformers" if base is None else "peft"
    front = [f"library_name: {library}", f"pipeline_tag: {task}", "tags: [tfkit]"]
    if carbon:
        front += ["co2_eq_emissions:", *(f"  {key}: {_yaml(value)}" for key, value in carbon.items())]
    layers = " + ".join(str(count) for count in (config.encoder_layers, config.decoder_layers) if count)
    rows = {
        "updates of": str(base or ""),
        "parameters": f"{parameters:,}",
        "layers, width, heads": f"{layers}, {config.dim}, {config.num_heads} ({config.num_kv_heads} for keys and values)",
        "vocabulary, context": f"{config.vocab_size:,}, {config.context_length:,}",
        "data": ", ".join(data),
        "steps, tokens": f"{progress['steps']:,}, {progress['tokens']:,}",
        "weights": averaged,
        "training loss": f"{progress['loss']:.4f}" if progress["loss"] is not None else "",
        **{f"validation {metric.replace('_', ' ')}": _number(value) for metric, value in evaluation.items() if metric != "target_tokens"},
    }
    table = "\n".join(f"| {label} | {value} |" for label, value in rows.items() if value)
    opening = [_opening(architecture, config, base)] if architecture else []
    names = f"`{library}` and with `tfkit`" if architecture else "`tfkit`; `transformers` has no class for it"
    return f"""---
{chr(10).join(front)}
---

# {name}

{_STACKS[bool(config.encoder_layers), bool(config.decoder_layers)]}, made by {kind} with tfkit. It opens with {names}:

    {f"{chr(10)}    ".join([*opening, example])}

| | |
| --- | --- |
{table}

{co2_sentence(reading)}
"""


def _number(value: float | None) -> str:
    """None: it is not finite, and was read back from JSON."""
    return "not finite" if value is None else f"{value:,.4g}"


def _opening(architecture: str, config: ModelConfig, base: Path | None) -> str:
    """Return the line of Python that opens the model."""
    if base is None:
        return f'transformers.{architecture}.from_pretrained(".")'
    labels = f", num_labels={config.head.count}" if isinstance(config.head, ClassesHeadConfig | TagsHeadConfig) else ""
    return f'peft.PeftModel.from_pretrained(transformers.{architecture}.from_pretrained("{base}"{labels}), ".")'


def mean_card(card: str, checkpoints: Sequence[str]) -> str:
    """Return the newest checkpoint's card as that of their mean: without the loss and scores, which belong to that one alone."""
    kept: list[str] = []
    for line in card.splitlines():
        if not line.startswith(("| weights |", "| training loss |", "| validation ")):
            kept.append(line)
        if line.startswith("| steps, tokens |"):
            kept.append(f"| weights | mean of {', '.join(checkpoints)} |")
    return "\n".join(kept) + "\n"


_STACKS = {
    (False, True): "A decoder-only Transformer",
    (True, False): "An encoder-only Transformer",
    (True, True): "A Transformer with encoder and decoder",
}


def _use(config: ModelConfig) -> tuple[str, str]:
    """Return the Hub's name of the task of the model's head, and an example of its use."""
    match config.head:
        case MaskedLanguageModelHeadConfig():
            return "fill-mask", 'tfkit generate --from . --prompt "... [MASK] ..."'
        case ClassesHeadConfig():
            return "text-classification", 'tfkit.load(".")'
        case TagsHeadConfig():
            return "token-classification", 'tfkit.load(".")'
        case NoHeadConfig():
            return "feature-extraction", 'tfkit.load(".")'
    return ("text2text-generation" if config.encoder_layers else "text-generation"), 'tfkit generate --from . --prompt "..."'


def _yaml(value: Any) -> str:
    """Return a scalar as YAML: a number as a plain decimal, since the Hub reads no exponents; text in quotes."""
    return f"{value:.10f}".rstrip("0").rstrip(".") if isinstance(value, float) else '"' + str(value).replace('"', "'") + '"'
