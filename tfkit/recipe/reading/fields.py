"""Lookup of the schema's fields by path, for suggestions and for the kinds of unions."""

import difflib
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tfkit.recipe.reading.tree import Path

# Other tools' names for fields that have one name here.
_FOREIGN = {
    "dim": ("n_embd", "d_model", "hidden_size"),
    "hidden_dim": ("intermediate_size",),
    "decoder_layers": ("n_layer", "num_layers", "layers", "num_hidden_layers"),
    "num_heads": ("n_head", "num_attention_heads"),
    "num_kv_heads": ("num_key_value_heads",),
    "context_length": ("block_size", "max_position_embeddings", "seq_len"),
    "sequence_length": ("seq_length", "max_length", "max_seq_len", "max_seq_length", "cutoff_len"),
    "lr": ("learning_rate",),
    "steps": ("max_steps", "max_iters"),
    "epochs": ("num_epochs", "num_train_epochs"),
    "clip_norm": ("grad_clip", "max_grad_norm"),
    "warmup_steps": ("warmup", "num_warmup_steps"),
    "ema_decay": ("ema",),
    "batch_ramp": ("rampup_batch_size",),
    "every": ("save_steps", "eval_steps"),
    "precision": ("dtype",),
    "preset": ("name",),
}
FOREIGN_NAMES = {theirs: name for name, foreign in _FOREIGN.items() for theirs in foreign}


def section_types(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the section types that a field may hold, through lists, unions and annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from section_types(argument)


def tags(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of `kind` of a section type; empty if it has no `kind`."""
    kind = section.model_fields.get("kind")
    return typing.get_args(kind.annotation) if kind else ()


def section_types_at(root: type[BaseModel], path: Path, data: Any) -> list[type[BaseModel]]:
    """Return the section types that are allowed at a path; only the one of the data's `kind`, if it has one."""
    types = [root]
    for step in path:
        data = _value(data, step)
        if isinstance(step, int):
            continue
        fields = [section.model_fields[step] for section in types if step in section.model_fields]
        types = [inner for field in fields for inner in section_types(field.annotation)]
        if len(types) > 1 and isinstance(data, dict):
            types = [section for section in types if data.get("kind") in tags(section)] or types
    return types


def field_at(root: type[BaseModel], path: Path, data: Any) -> FieldInfo | None:
    """Return the declaration of the field at a path; None if there is none."""
    if not path or isinstance(path[-1], int):
        return None
    types = section_types_at(root, path[:-1], data)
    return next((section.model_fields[path[-1]] for section in types if path[-1] in section.model_fields), None)


def kinds_at(root: type[BaseModel], path: Path, data: Any, name: str | None = None) -> list[str]:
    """Return every kind that is allowed at a path; with `name`, those that have a field of this name."""
    while path and isinstance(path[-1], int):  # an entry of a list, whose field declares the kinds
        path = path[:-1]
    field = field_at(root, path, data)
    sections = section_types(field.annotation) if field else ()
    return [tag for section in sections if name is None or name in section.model_fields for tag in tags(section)]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None if none is close."""
    known = list(known)
    if FOREIGN_NAMES.get(name) in known:
        return FOREIGN_NAMES[name]
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return close[0] if close else None


def sections_with(root: type[BaseModel], name: str) -> list[str]:
    """Return the sections of the recipe that have a field of this name, here or under another tool's name."""
    wanted = {name, FOREIGN_NAMES.get(name)}
    return [
        section
        for section, field in root.model_fields.items()
        if any(wanted & inner.model_fields.keys() for inner in section_types(field.annotation))
    ]


def _value(data: Any, step: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(step)
    if isinstance(data, list) and isinstance(step, int) and step < len(data):
        return data[step]
    return None
