"""The teacher of a distillation: loading, checks against the student, and the layers that initialize the student."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.model.config import LanguageModelHeadConfig, MaskedLanguageModelHeadConfig, ModelConfig
from tfkit.model.transformer import Transformer, on_meta
from tfkit.objectives.companion import Companion, open_companion, refuse_misfit
from tfkit.objectives.context import ModelContext
from tfkit.recipe.schema.objective_sections import DistillationSection

# The settings that student and teacher must share, besides the shapes of tensors, so that copied tensors have the same meaning.
_ARCHITECTURE: dict[str, Any] = {
    **dict.fromkeys(("num_heads", "num_kv_heads", "head_dim", "position", "norm", "mlp"), True),
    "embedding": {"scale"},
    "attention": {"scale"},
}
_MAX_PROBLEMS = 12  # the most problems that an error message lists


def open_teacher(section: DistillationSection, context: ModelContext) -> Companion:
    """Load the teacher of a student. Raises ModelError, with all reasons, if it cannot teach the student."""
    teacher = open_companion(section, "teacher", defer_blocks=context.defer_blocks)
    refuse_misfit(teacher, "teach this model", _misfits(teacher, section, context))
    if section.copy_layers is not None:
        copied_tensors(on_meta(context.config), teacher.model, section.copy_layers)  # raises for a misfit before the data are tokenized
    return teacher


@torch.no_grad()
def copy_layers(student: Transformer, teacher: Transformer, layers: Sequence[int]) -> None:
    """Copy the teacher's weights: those of layer `layers[i]` to layer i of the student, all others to the parameter of the same name.

    If the teacher's blocks are loaded on demand (`fill_block`), so are the student's, each from the file of the block that it copies.
    """
    parameters = dict(student.named_parameters())
    for name, tensor in copied_tensors(student, teacher, layers).items():
        parameters[name].copy_(tensor)
    if (fill := teacher.fill_block) is not None:
        student.fill_block = lambda prefix, block: fill(_teacher_name(prefix, layers), block)


def copied_tensors(student: Transformer, teacher: Transformer, layers: Sequence[int]) -> dict[str, Tensor]:
    """Return the teacher's tensor for each parameter of the student. Raises ModelError, with a list of problems, if they do not fit."""
    parameters = dict(teacher.named_parameters())
    ours, theirs = _architecture(student.config), _architecture(teacher.config)
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
        names = {name: _teacher_name(name, layers) for name, _ in student.named_parameters()}
        problems = _mismatches(dict(student.named_parameters()), parameters, names)
    if problems:
        more = [f"and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
        lines = "\n  ".join([*problems[:_MAX_PROBLEMS], *more])
        raise ModelError(f"objective.copy_layers: the student cannot start with the teacher's weights:\n  {lines}")
    return {name: parameters[source] for name, source in names.items()}


def _mismatches(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    problems = []
    for ours, theirs in names.items():
        shape = tuple(student[ours].shape)
        if theirs not in teacher:
            problems.append(f"{ours} {shape}: the teacher has no {theirs}")
        elif tuple(teacher[theirs].shape) != shape:
            problems.append(f"{ours} {shape}: the teacher's {theirs} is {tuple(teacher[theirs].shape)}")
    return problems


def _teacher_name(name: str, layers: Sequence[int]) -> str:
    """Return the teacher's name of a student's parameter: encoder.blocks.2.norm.weight -> encoder.blocks.4.norm.weight if layers[2] = 4."""
    stack, blocks, inner = name.partition(".blocks.")
    if not blocks:
        return name
    layer, _, rest = inner.partition(".")
    return f"{stack}.blocks.{layers[int(layer)]}.{rest}"


def _architecture(config: ModelConfig) -> dict[str, object]:
    """Return the settings that _ARCHITECTURE lists, by their names in a recipe."""
    document = config.model_dump(include=_ARCHITECTURE)
    return {
        (f"{name}.{inner}" if inner else name): setting
        for name, value in document.items()
        for inner, setting in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _layers(config: ModelConfig) -> int:
    return config.encoder_layers + config.decoder_layers


def _stacks(config: ModelConfig) -> str:
    return " and ".join(f"{article} {name}" for article, name in (("an", "encoder"), ("a", "decoder")) if getattr(config, f"{name}_layers"))


def _misfits(teacher: Companion, section: DistillationSection, context: ModelContext) -> list[str]:
    """Return the reasons why a model cannot teach the student; empty if it can."""
    student, tokenizer = context.config, context.tokenizer
    config, codec = teacher.model.config, teacher.tokenizer
    reasons = []
    if _stacks(config) != _stacks(student):
        reasons.append(f"it has {_stacks(config)}, the student {_stacks(student)}")
    if not isinstance(config.head, LanguageModelHeadConfig | MaskedLanguageModelHeadConfig):
        reasons.append(f"its head is of kind {config.head.kind}, which gives no distribution over the vocabulary")
    if codec is None:
        reasons.append("it has no tokenizer.json, so the tokens of its ids are not known")
    elif codec.fingerprint() != tokenizer.fingerprint():
        theirs, ours = (f"{each.size:,} entries, fingerprint {each.fingerprint()[:12]}" for each in (codec, tokenizer))
        reasons.append(f"its tokenizer ({theirs}) is not the student's ({ours}): set tokenizer.path to {section.teacher}")
    if config.vocab_size != student.vocab_size:
        reasons.append(f"its vocab_size is {config.vocab_size:,}, the student's {student.vocab_size:,}: set model.vocab_size")
    if config.context_length < context.row_length and config.position.kind != "relative":
        reasons.append(f"its context_length is {config.context_length:,}, and the student reads rows of {context.row_length:,} tokens")
    if section.cosine_weight and config.dim != student.dim:
        reasons.append(f"its dim is {config.dim}, the student's {student.dim}: make them equal, or set objective.cosine_weight to 0")
    return reasons
