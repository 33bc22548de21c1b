"""The model card: README.md of a checkpoint, with the carbon that the Hub reads."""

from typing import Any

from tfkit.carbon.card import co2_block, co2_sentence
from tfkit.carbon.reading import Reading
from tfkit.model.config import ModelConfig
from tfkit.run.machine import processor


def model_card(
    *,
    name: str,
    kind: str,
    config: ModelConfig,
    parameters: int,
    progress: dict[str, Any],
    evaluation: dict[str, float],
    data: list[str],
    reading: Reading,
) -> str:
    """Markdown with YAML front matter. `kind` is "pre-training" or "fine-tuning"."""
    carbon = co2_block(reading, kind, processor()["name"])
    front = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [tfkit]"]
    if carbon:
        front += ["co2_eq_emissions:", *(f"  {key}: {_yaml(value)}" for key, value in carbon.items())]
    layers = " + ".join(str(count) for count in (config.encoder_layers, config.decoder_layers) if count)
    rows = {
        "parameters": f"{parameters:,}",
        "layers, width, heads": f"{layers}, {config.dim}, {config.num_heads} ({config.num_kv_heads} for keys and values)",
        "vocabulary, context": f"{config.vocab_size:,}, {config.context_length:,}",
        "data": ", ".join(data),
        "steps, tokens": f"{progress['steps']:,}, {progress['tokens']:,}",
        "training loss": f"{progress['loss']:.4f}" if progress["loss"] is not None else "",
        **{f"validation {metric.replace('_', ' ')}": f"{value:,.4g}" for metric, value in evaluation.items() if metric != "target_tokens"},
    }
    table = "\n".join(f"| {label} | {value} |" for label, value in rows.items() if value)
    return f"""---
{chr(10).join(front)}
---

# {name}

A decoder-only Transformer, made by {kind} with tfkit. It opens with `transformers` and with `tfkit`:

    AutoModelForCausalLM.from_pretrained(".")
    tfkit generate --from . --prompt "..."

| | |
| --- | --- |
{table}

{co2_sentence(reading)}
"""


def _yaml(value: Any) -> str:
    """A scalar as YAML: a number as a plain decimal, since the Hub reads no exponents; text in quotes."""
    return f"{value:.10f}".rstrip("0").rstrip(".") if isinstance(value, float) else '"' + str(value).replace('"', "'") + '"'
