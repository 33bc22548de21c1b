"""The model that a student learns from: opened and checked against the student, and the layers that the student begins with."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tfkit.errors import ModelError
from tfkit.hub.names import on_meta
from tfkit.model.config import LanguageModelHeadConfig, MaskedLanguageModelHeadConfig, ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion, open_companion
from tfkit.objectives.context import ModelContext
from tfkit.recipe.schema.objective_sections import DistillationSection

_MEANING: dict[str, Any] = {
    **dict.fromkeys(("num_heads", "num_kv_heads", "head_dim", "position", "norm", "mlp"), True),
    "embedding": {"scale"},
    "attention": {"scale"},
}
_MOST_LINES = 12


def open_teacher(section: DistillationSection, context: ModelContext) -> Companion:
    """Load the teacher of a student. Raises ModelError, with all reasons, if it cannot teach it."""
    teacher = open_companion(section, "teacher", blocks_later=context.blocks_later)
    if reasons := _misfits(teacher, section, context):
        lines = "\n  ".join(reasons)
        raise ModelError(f"objective.teacher: {section.teacher} cannot teach this model:\n  {lines}")
    if section.copy_layers is not None:
        copied_tensors(
            on_meta(context.config), teacher.model, section.copy_layers
        )  # whether they fit is known before anything is tokenized
    return teacher


@torch.no_grad()
def copy_layers(student: Transformer, teacher: Transformer, layers: Sequence[int]) -> None:
    """Begin with the teacher's weights: layer i of the student is the teacher's layer `layers[i]`, and the rest has the same names.

    Where the blocks of both get their weights later, each of the student's is read from the files of the teacher then.
    """
    parameters = dict(student.named_parameters())
    for name, tensor in copied_tensors(student, teacher, layers).items():
        parameters[name].copy_(tensor)
    if teacher.fill_block is not None:
        student.fill_block = partial(_fill_copied, teacher.fill_block, tuple(layers))


def _fill_copied(fill: Callable[[str, nn.Module], None], layers: Sequence[int], prefix: str, block: nn.Module) -> None:
    """Give a block of the student the weights of the teacher's that it is copied from."""
    fill(_teachers_name(prefix, layers), block)


def copied_tensors(student: Transformer, teacher: Transformer, layers: Sequence[int]) -> dict[str, Tensor]:
    """The teacher's tensor for each parameter of the student. Raises ModelError, with a list, where they do not fit."""
    found = dict(teacher.named_parameters())
    ours, theirs = _meaning(student.config), _meaning(teacher.config)
    problems = [
        f"{name}: the student's is {ours.get(name)}, the teacher's {theirs.get(name)}"
        for name in ours | theirs
        if ours.get(name) != theirs.get(name)
    ]
    count = _layers(teacher.config)
    problems += [f"copy_layers: the teacher has no layer {layer}, only 0 to {count - 1}" for layer in sorted({*layers}) if layer >= count]
    if len(layers) != _layers(student.config):
        problems.append(f"copy_layers: {len(layers)} layers for a student of {_layers(student.config)}")
    if not problems:
        names = {name: _teachers_name(name, layers) for name, _ in student.named_parameters()}
        problems = _unlike(dict(student.named_parameters()), found, names)
    if problems:
        more = [f"and {len(problems) - _MOST_LINES} more"] if len(problems) > _MOST_LINES else []
        lines = "\n  ".join([*problems[:_MOST_LINES], *more])
        raise ModelError(f"objective.copy_layers: the student cannot start with the teacher's weights:\n  {lines}")
    return {name: found[whose] for name, whose in names.items()}


def _unlike(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    problems = []
    for ours, theirs in names.items():
        shape = tuple(student[ours].shape)
        if theirs not in teacher:
            problems.append(f"{ours} {shape}: the teacher has no {theirs}")
        elif tuple(teacher[theirs].shape) != shape:
            problems.append(f"{ours} {shape}: the teacher's {theirs} is {tuple(teacher[theirs].shape)}")
    return problems


def _teachers_name(name: str, layers: Sequence[int]) -> str:
    """encoder.blocks.2.mlp.norm.weight -> encoder.blocks.4.mlp.norm.weight."""
    before, blocks, behind = name.partition(".blocks.")
    if not blocks:
        return name
    layer, _, rest = behind.partition(".")
    return f"{before}.blocks.{layers[int(layer)]}.{rest}"


def _meaning(config: ModelConfig) -> dict[str, object]:
    """The fields that give the tensors their meaning beside their shapes, by their names in a recipe."""
    document = config.model_dump(include=_MEANING)
    return {
        (f"{name}.{inner}" if inner else name): found
        for name, value in document.items()
        for inner, found in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _layers(config: ModelConfig) -> int:
    return config.encoder_layers + config.decoder_layers


def _stacks(config: ModelConfig) -> str:
    return " and ".join(f"{article} {name}" for article, name in (("an", "encoder"), ("a", "decoder")) if getattr(config, f"{name}_layers"))


def _misfits(teacher: Companion, section: DistillationSection, context: ModelContext) -> list[str]:
    """Why a model cannot teach the student; empty if it can."""
    config, tokenizer = context.config, context.tokenizer
    taught, codec = teacher.model.config, teacher.tokenizer
    reasons = []
    if _stacks(taught) != _stacks(config):
        reasons.append(f"it has {_stacks(taught)}, the student {_stacks(config)}")
    if not isinstance(taught.head, LanguageModelHeadConfig | MaskedLanguageModelHeadConfig):
        reasons.append(f"its head is of kind {taught.head.kind}, which gives no distribution over the vocabulary")
    if codec is None:
        reasons.append("it has no tokenizer.json, so the tokens of its ids are not known")
    elif codec.fingerprint() != tokenizer.fingerprint():
        theirs, ours = (f"{one.size:,} entries, fingerprint {one.fingerprint()[:12]}" for one in (codec, tokenizer))
        reasons.append(f"its tokenizer ({theirs}) is not the student's ({ours}): set tokenizer.path to {section.teacher}")
    if taught.vocab_size != config.vocab_size:
        reasons.append(f"its vocab_size is {taught.vocab_size:,}, the student's {config.vocab_size:,}: set model.vocab_size")
    if taught.context_length < context.row_length and taught.position.kind != "relative":
        reasons.append(f"its context_length is {taught.context_length:,}, and the student reads rows of {context.row_length:,} tokens")
    if section.cosine_weight and taught.dim != config.dim:
        reasons.append(f"its dim is {taught.dim}, the student's {config.dim}: make them equal, or set objective.cosine_weight to 0")
    return reasons
