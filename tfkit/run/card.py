"""The model card: README.md of a checkpoint, with the metadata that the Hub reads: base model, data, scores (the field `model-index`) and
emissions. https://huggingface.co/docs/hub/model-cards describes the format of the metadata. The card contains no paths of this machine.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfkit.model.config import ClassesHeadConfig, ModelConfig, TagsHeadConfig
from tfkit.run.card_facts import BaseCard, CardData, hub_name, last_name
from tfkit.run.card_impact import CardImpact

_MOST_LABELS = 20  # the largest number of labels that the card lists
# The Python expression by which a card names an adapter's base model if that is a local folder, since a card contains no paths.
_OWN_BASE = 'peft.PeftConfig.from_pretrained(".").base_model_name_or_path'
_TASKS = {
    "masked_lm": "fill-mask",
    "classes": "text-classification",
    "tags": "token-classification",
    "spans": "question-answering",
    "none": "feature-extraction",
}  # the Hub's name for the task of each kind of head; the task of an `lm` head depends on whether the model has an encoder
_STACKS = {
    (False, True): "A decoder-only Transformer",
    (True, False): "An encoder-only Transformer",
    (True, True): "A Transformer with encoder and decoder",
}


@dataclass(frozen=True)
class CardModel:
    """The model that a card describes."""

    name: str
    config: ModelConfig
    architecture: str | None  # the name of transformers' class for the model; None if there is no such class
    parameters: int
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class CardTraining:
    """The training of the model until the checkpoint was saved, and the scores of this checkpoint."""

    kind: str  # pre-training or fine-tuning
    steps: int
    tokens: int
    loss: float | None
    evaluation: Mapping[str, float | None] = field(default_factory=dict)
    averaged: str = ""  # how the weights were averaged, as text; "" if they were not


@dataclass(frozen=True)
class CardBase:
    """The model from which the training started."""

    path: str
    card: BaseCard = field(default_factory=BaseCard)
    adapter: bool = False  # whether the new weights are an adapter for this model


def model_card(model: CardModel, training: CardTraining, data: CardData, impact: CardImpact, start: CardBase | None = None) -> str:
    """Return the text of a model card: Markdown with YAML front matter."""
    config, evaluation, architecture = model.config, training.evaluation, model.architecture
    task, example = _use(config)
    base, adapter, base_card = (last_name(start.path), start.adapter, start.card) if start else (None, False, BaseCard())
    library = "tfkit" if architecture is None else "peft" if adapter else "transformers"
    front = [f"library_name: {library}", f"pipeline_tag: {task}", "tags: [tfkit]"]
    front += _list("language", data.languages or base_card.languages)
    front += [f"license: {_yaml(base_card.license)}"] if base_card.license else []
    on_hub = hub_name(start.path) if start else None
    front += [f"base_model: {_yaml(on_hub)}", f"base_model_relation: {'adapter' if adapter else 'finetune'}"] if on_hub else []
    front += _list("datasets", data.hub)
    front += _impact_front(impact, training.kind)
    front += _model_index(model.name, task, data, evaluation)
    more = len(model.labels) - _MOST_LABELS
    layers = " + ".join(str(count) for count in (config.encoder_layers, config.decoder_layers) if count)
    rows = {
        "updates of" if adapter else "base model": base or "",
        "parameters": f"{model.parameters:,}",
        "layers, width, heads": f"{layers}, {config.dim}, {config.num_heads} ({config.num_kv_heads} for keys and values)",
        "vocabulary, context": f"{config.vocab_size:,}, {config.context_length:,}",
        "data": ", ".join(data.names),
        "trained on rows of": f"{data.sequence_length:,} tokens at most" if data.sequence_length else "",
        "labels": ", ".join(model.labels[:_MOST_LABELS]) + (f" and {more:,} more" if more > 0 else ""),
        "steps, tokens": f"{training.steps:,}, {training.tokens:,}",
        "weights": training.averaged,
        "training loss": f"{training.loss:.4f}" if training.loss is not None else "",
        **{f"validation {metric.replace('_', ' ')}": _number(value) for metric, value in evaluation.items() if metric != "target_tokens"},
    }
    opening = [_opening(architecture, config, (f'"{on_hub}"' if on_hub else _OWN_BASE) if adapter else None)] if architecture else []
    names = f"`{library}` and with `tfkit`" if architecture else "`tfkit`; `transformers` has no class for it"
    return f"""---
{chr(10).join(front)}
---

# {model.name}

{_STACKS[bool(config.encoder_layers), bool(config.decoder_layers)]}, made by {training.kind} with tfkit. It opens with {names}:

    {f"{chr(10)}    ".join([*opening, example])}

{_table(rows)}

{impact.sentence()}
{_section(impact)}"""


def with_impact(card: str, impact: CardImpact, training_type: str) -> str:
    """Return the text `card` with the energy and emissions of `impact`. All other parts are kept, including those that a user edited."""
    card = card.replace("\r\n", "\n")  # an editor may have changed the line ends
    match = re.match(r"---\n(.*?\n)---\n(.*)", card, re.DOTALL)
    front, body = (match[1], match[2]) if match else ("", card)
    block = "".join(f"{line}\n" for line in _impact_front(impact, training_type))
    front, replaced = re.subn(r"^co2_eq_emissions:\n(?:[ \t]+[^\n]*\n)*", lambda _: block, front, count=1, flags=re.MULTILINE)
    front += "" if replaced else block
    body = re.sub(r"\n## Environmental impact\n.*?(?=\n## |\Z)", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"^(?:Training took (?:at least )?[\d.]|Energy and emissions )[^\n]*\n", "", body, count=1, flags=re.MULTILINE)
    return f"---\n{front}---\n{body.rstrip()}\n\n{impact.sentence()}\n{_section(impact)}"


def _impact_front(impact: CardImpact, training_type: str) -> list[str]:
    """Return `co2_eq_emissions`, the Hub's field for emissions, as lines of YAML; no lines if none, or less than 1e-4 g, were measured."""
    block = impact.front(training_type)
    return ["co2_eq_emissions:", *(f"  {key}: {_yaml(value)}" for key, value in block.items())] if block else []


def _table(rows: Mapping[str, str]) -> str:
    cells = {label: " ".join(value.split()).replace("|", "\\|") for label, value in rows.items() if value}  # a cell is one line
    return "\n".join(["| | |", "| --- | --- |", *(f"| {label} | {cell} |" for label, cell in cells.items())])


def _section(impact: CardImpact) -> str:
    """Return the section on the environmental impact; empty if nothing was measured."""
    rows = impact.rows()
    return f"\n## Environmental impact\n\n{_table(rows)}\n" if rows else ""


def _number(value: float | None) -> str:
    """Return a score as text. None means a score that is not finite, as in tfkit's JSON files."""
    return "not finite" if value is None else f"{value:,.4g}"


def _model_index(name: str, task: str, data: CardData, evaluation: Mapping[str, float | None]) -> list[str]:
    """Return the field `model-index` as lines of YAML: the finite scores, grouped by validation set; no lines if there are no scores."""
    scores: dict[str, dict[str, float]] = {set_name: {} for set_name in data.validation}
    prefixes = {f"{set_name}." if set_name else "": set_name for set_name in sorted(scores, key=len, reverse=True)}
    for metric, value in evaluation.items():
        prefix = next((prefix for prefix in prefixes if metric.startswith(prefix)), None)
        if prefix is not None and value is not None and math.isfinite(value) and not metric.endswith("target_tokens"):
            scores[prefixes[prefix]][metric.removeprefix(prefix)] = float(value)
    lines = []
    for set_name, dataset in data.validation.items():
        if scores[set_name]:
            lines += [
                f"  - task: {{type: {task}}}",
                f"    dataset: {{name: {_yaml(dataset)}, type: {_yaml(dataset)}}}",
                "    metrics:",
                *(f"    - {{type: {_yaml(metric)}, value: {_yaml(value)}}}" for metric, value in scores[set_name].items()),
            ]
    return ["model-index:", f"- name: {_yaml(name)}", "  results:", *lines] if lines else []


def _list(key: str, values: Sequence[str]) -> list[str]:
    """Return the field `key` with the list `values` as lines of YAML; no lines if `values` is empty."""
    return [f"{key}:", *(f"- {_yaml(value)}" for value in values)] if values else []


def _opening(architecture: str, config: ModelConfig, base: str | None) -> str:
    """Return the line of Python that loads the model. `base`: for an adapter, the expression for the name of its base model; else None."""
    if base is None:
        return f'transformers.{architecture}.from_pretrained(".")'
    labels = f", num_labels={config.head.count}" if isinstance(config.head, ClassesHeadConfig | TagsHeadConfig) else ""
    return f'peft.PeftModel.from_pretrained(transformers.{architecture}.from_pretrained({base}{labels}), ".")'


def mean_card(card: str, checkpoints: Sequence[str]) -> str:
    """Return `card`, that of the newest of `checkpoints`, for the mean of their weights: with their names, without loss and scores."""
    kept: list[str] = []
    card = re.sub(r"^model-index:\n(?:[ -][^\n]*\n)*?(?=\w|---$)", "", card, count=1, flags=re.MULTILINE)
    for line in card.splitlines():
        if not line.startswith(("| weights |", "| training loss |", "| validation ")):
            kept.append(line)
        if line.startswith("| steps, tokens |"):
            kept.append(f"| weights | mean of {', '.join(checkpoints)} |")
    return "\n".join(kept) + "\n"


def _use(config: ModelConfig) -> tuple[str, str]:
    """Return the Hub's name for the task of the model's head, and a tfkit command or Python expression that uses the model."""
    kind = config.head.kind
    if kind == "lm":
        return ("text2text-generation" if config.encoder_layers else "text-generation"), 'tfkit generate --from . --prompt "..."'
    return _TASKS[kind], 'tfkit generate --from . --prompt "... [MASK] ..."' if kind == "masked_lm" else 'tfkit.load(".")'


def _yaml(value: Any) -> str:
    """Return a scalar as YAML. A float is written without an exponent, since the Hub reads none. Any other value is quoted as text, so
    that the licence `no` is not read as false, and its unprintable characters become escape sequences.
    """
    if isinstance(value, float):
        return f"{value:.10f}".rstrip("0").rstrip(".")
    quoted = json.dumps(str(value), ensure_ascii=False)
    return "".join(character if character.isprintable() else f"\\U{ord(character):08x}" for character in quoted)
