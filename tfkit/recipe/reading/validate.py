"""Messages for the errors that pydantic finds in a recipe, in the terms of the recipe and with the positions of fields."""

import difflib
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tfkit.recipe.reading.problems import Problem, problem_at, quoted
from tfkit.recipe.reading.tree import Node, Path
from tfkit.recipe.schema.sections import Recipe

# The words for the expected type in a message, by the type of pydantic's error.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "a section of fields",
    "dict_type": "a section of fields",
}


def problems_in(error: ValidationError, schema: type[BaseModel], data: Any, tree: Node, base: Path = ()) -> list[Problem]:
    """Return the problems in `error`, raised by the validation of `data` as `schema`. `base`: the path of `data` in the tree."""
    problems = []
    for path, detail in _without_other_branches(error.errors(include_url=False), data):
        path, message, at_key = _explain(detail, path, schema, data)
        problems.append(problem_at(tree, base + path, message, key=at_key))
    return problems


def unknown(name: str, known: Iterable[str], elsewhere: list[str]) -> str:
    """Return the message for an unknown field: it names the field that was meant, the sections that have the field, or the known fields."""
    known = sorted(known)
    if meant := did_you_mean(name, known):
        return f"unknown, did you mean {meant}"
    if elsewhere:
        named = f", as {FOREIGN_NAMES[name]}" if name in FOREIGN_NAMES else ""
        return f"unknown here; it belongs to {' or to '.join(elsewhere)}{named}"
    return f"unknown; the fields here are {', '.join(known)}" if known else "unknown; this section has no fields"


def one_of(value: Any, allowed: Iterable[str]) -> str:
    """Return the message for a value that is not among the allowed texts."""
    allowed = list(allowed)
    meant = did_you_mean(value, allowed) if isinstance(value, str) else None
    return f"{quoted(value)} is none of {', '.join(allowed)}" + (f"; did you mean {meant}" if meant else "")


def _without_other_branches(details: list[ErrorDetails], data: Any) -> list[tuple[Path, ErrorDetails]]:
    """Return errors with their paths in the data.

    Of a union, only the errors of members that accept the value's type are returned; if none does, one error that names all their types.
    """
    kept: list[tuple[Path, ErrorDetails]] = []
    unions: dict[Path, dict[str, list[tuple[Path, ErrorDetails]]]] = defaultdict(lambda: defaultdict(list))
    for detail in details:
        path, union, branch = _locate(detail, data)
        if union is None:
            kept.append((path, detail))
        else:
            unions[union][branch].append((path, detail))
    for union, branches in unions.items():
        shaped = [errors for errors in branches.values() if not all(_wrong_shape(detail, path, union) for path, detail in errors)]
        if shaped or len(branches) == 1:
            kept += [error for errors in shaped or branches.values() for error in errors]
        else:
            shown = [detail for errors in branches.values() for _, detail in errors]
            wanted = " or ".join(_EXPECTED.get(one["type"]) or one["ctx"]["expected"].replace("'", "") for one in shown)
            first = next(iter(branches.values()))[0][1]
            kept.append((union, {**first, "type": "union_shape", "ctx": {"wanted": wanted}}))
    return kept


def _locate(detail: ErrorDetails, data: Any) -> tuple[Path, Path | None, str]:
    """Return an error's path in the data, the path of the innermost union around it (None: no union), and the union's member that fails."""
    path: Path = ()
    union, branch = None, ""
    for step in detail["loc"]:
        if step in data if isinstance(data, dict) else isinstance(data, list) and isinstance(step, int) and step < len(data):
            path, data = (*path, step), data[step]
        elif detail["type"] == "missing" and step == detail["loc"][-1]:
            path = (*path, step)
        else:
            union, branch = path, str(step)
    return path, union, branch


def _wrong_shape(detail: ErrorDetails, path: Path, union: Path) -> bool:
    no_word = detail["type"] == "literal_error" and not isinstance(detail["input"], str)
    return path == union and (no_word or detail["type"] in _EXPECTED)


def _explain(detail: ErrorDetails, path: Path, schema: type[BaseModel], data: Any) -> tuple[Path, str, bool]:
    """Return the path of the problem, its message, and whether its place is that of the field's key, not of its value."""
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return path, _unknown_at(path, schema, data), True
        case "missing" if isinstance(path[-1], int):
            return path[:-1], "too few entries", True
        case "missing":
            field = field_at(schema, path, data)
            return path, "missing" + (f": {field.description}" if field and field.description else ""), True
        case "union_tag_not_found":
            return (*path, "kind"), f"missing: one of {', '.join(kinds_at(schema, path, data))}", True
        case "union_tag_invalid":
            return (*path, "kind"), one_of(value.get("kind"), kinds_at(schema, path, data)), False
        case "literal_error":
            words = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return path, one_of(value, [word.lower() if word in ("True", "False") else word for word in words]), False
        case "string_pattern_mismatch":
            field = field_at(schema, path, data)
            return path, f"{quoted(value)} does not fit {context['pattern']}" + (f": {field.description}" if field else ""), False
        case "value_error":
            return path, str(context["error"]), False
        case "model_type" | "model_attributes_type" | "dict_type" if value is None:
            return path, "is empty: give it fields, or leave it out", True
        case "union_shape":
            return path, f"must be {context['wanted']}, not {_shown(value)}", False
        case kind if kind in _EXPECTED:
            return path, f"must be {_EXPECTED[kind]}, not {_shown(value)}{_remedy(kind, value)}", False
        case kind:
            field = field_at(schema, path, data)
            none = "; or write null" if value == 0 and field and type(None) in typing.get_args(field.annotation) else ""
            return path, (_bound(kind, context, value) or detail["msg"]) + none, False


def _unknown_at(path: Path, schema: type[BaseModel], data: Any) -> str:
    sections = section_types_at(schema, path[:-1], data)
    known = {name for section in sections for name in section.model_fields}
    name, here = str(path[-1]), path[:-1]
    kinds = kinds_at(schema, here, data, name)
    elsewhere = [f"the kind{'s' * (len(kinds) > 1)} {', '.join(kinds)} of {'.'.join(map(str, here))}"] if kinds else []
    elsewhere += [section for section in sections_with(name) if here != (section,)]
    return unknown(name, known, elsewhere or [section for section in Recipe.model_fields if section == name and here])


def _bound(kind: str, context: dict[str, Any], value: Any) -> str | None:
    bounds = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
    if name := next(iter(bounds.keys() & context.keys()), None):
        return f"must be {bounds[name]} {_number(context[name])}, not {_shown(value)}"
    match kind:
        case "finite_number":
            return f"must be a finite number, not {_shown(value)}"
        case "too_short":
            return f"needs at least {context['min_length']} entry" if context["min_length"] == 1 else "too few entries"
        case "too_long":
            return f"has {context['actual_length']} entries; at most {context['max_length']} fit"
    return None


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) and abs(bound) < 1e15 else f"{bound:g}"


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a section of fields"
        case list():
            return "a list"
        case str():
            return f"the text {quoted(value)}"
    return quoted(value)


def _remedy(kind: str, value: Any) -> str:
    if kind == "int_type" and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return f"; write {int(value)}"
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.strip().replace(".", "", 1).isdigit():
        return "; remove the quotes"
    if kind == "bool_type" and isinstance(value, str) and value.lower() in ("yes", "on", "no", "off"):
        return f"; write {'true' if value.lower() in ('yes', 'on') else 'false'}"
    if kind == "string_type" and not isinstance(value, dict | list) and value is not None:
        return "; put it in quotes"
    return ""


# Lookup of the fields by path, for suggestions and for the kinds of unions.

# The names of fields in other tools, by their names in tfkit.
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
    """Yield the section types that a field may hold, also as items of lists and members of unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from section_types(argument)


def tags(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of `kind` of a section type; empty if it has no `kind`."""
    kind = section.model_fields.get("kind")
    return typing.get_args(kind.annotation) if kind else ()


def section_types_at(root: type[BaseModel], path: Path, data: Any) -> list[type[BaseModel]]:
    """Return the section types that are allowed at a path; if the section in `data` names a `kind`, only the type of this kind."""
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
    """Return the declaration of the field at a path; None if there is no such field."""
    if not path or isinstance(path[-1], int):
        return None
    types = section_types_at(root, path[:-1], data)
    return next((section.model_fields[path[-1]] for section in types if path[-1] in section.model_fields), None)


def kinds_at(root: type[BaseModel], path: Path, data: Any, name: str | None = None) -> list[str]:
    """Return the kinds of sections that are allowed at a path; if `name` is given, only those with a field of this name."""
    while path and isinstance(path[-1], int):  # the path of a list's entry: the list's field declares the kinds
        path = path[:-1]
    field = field_at(root, path, data)
    sections = section_types(field.annotation) if field else ()
    return [tag for section in sections if name is None or name in section.model_fields for tag in tags(section)]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant; None if no known name is similar."""
    known = list(known)
    if FOREIGN_NAMES.get(name) in known:
        return FOREIGN_NAMES[name]
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return close[0] if close else None


def sections_with(name: str) -> list[str]:
    """Return the sections of the recipe that have a field of this name. The name may be the one that another tool has for the field."""
    wanted = {name, FOREIGN_NAMES.get(name)}
    return [
        section
        for section, field in Recipe.model_fields.items()
        if any(wanted & inner.model_fields.keys() for inner in section_types(field.annotation))
    ]


def _value(data: Any, step: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(step)
    if isinstance(data, list) and isinstance(step, int) and step < len(data):
        return data[step]
    return None
