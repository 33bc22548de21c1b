"""Writing of recipes as YAML. A resolved recipe states every field, so that later versions with other defaults run it in the same way."""

import io
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from tfkit.model.config import ModelConfig
from tfkit.recipe.reading.problems import on_one_line
from tfkit.recipe.schema.sections import Recipe

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # texts to quote: YAML 1.1 reads the last six as booleans, too


class _Representer(SafeRepresenter):
    """A representer that quotes texts with unprintable characters, because ruamel.yaml would fold Unicode line breaks into spaces."""

    def represent_str(self, data: str) -> Any:
        """Represent a text, in double quotes and with escapes if it has unprintable characters or begins with `?`, YAML's sign of a key."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if data.startswith("?") or not data.isprintable() else None)


_Representer.add_representer(str, _Representer.represent_str)


def dump_recipe(recipe: Recipe, config: ModelConfig | None) -> str:
    """Return the recipe as YAML, for read_recipe; its section model has all fields of `config` or, for None, those the recipe states."""
    return dump_document(recipe_document(recipe, config))


def recipe_document(recipe: Recipe, config: ModelConfig | None) -> dict[str, Any]:
    """Return the recipe as the nested dicts that `dump_recipe` writes as YAML."""
    document = recipe.model_dump(mode="json")
    section = recipe.model
    named = {"preset": section.preset, "from": section.start, "sha256": section.sha256}
    fields = section.changes if config is None else config.model_dump(mode="json")
    document["model"] = {name: value for name, value in named.items() if value is not None} | fields
    if recipe.tokenizer.path is not None:
        document["tokenizer"] = {"path": recipe.tokenizer.path}  # the other fields apply only to a tokenizer that is trained
    return document


def dump_document(document: dict[str, Any]) -> str:
    """Return a recipe's document as YAML: a list or section that holds only scalars is on one line, any other has a line for each value."""
    return "".join(f"{line}\n" for line in (_block(document) if _is_nested(document) else [_flow(document)]))


def comment_of(lines: Iterable[str]) -> str:
    """Return `lines` as the comment at the beginning of a recipe. Their unprintable characters, such as line breaks, are escaped."""
    return "".join(f"# {on_one_line(line)}\n" for line in lines)


def _block(value: dict[str, Any] | list[Any]) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            first, *rest = _block(item) if _is_nested(item) else [_flow(item)]
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
        return
    for name, item in value.items():
        if _is_nested(item):
            yield f"{_scalar(name)}:"
            yield from (line if isinstance(item, list) else f"  {line}" for line in _block(item))
        else:
            yield f"{_scalar(name)}: {_flow(item)}"


def _is_nested(value: Any) -> bool:
    """Whether a list or a section holds other lists or sections, and so is written with a line for each value."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(item, dict | list) for item in items)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(name)}: {_flow(item)}" for name, item in value.items()) + "}"
    return "[" + ", ".join(map(_flow, value)) + "]" if isinstance(value, list) else _scalar(value)


def _scalar(value: Any) -> str:
    """Return a scalar as YAML. Only values that may need quotes, and floats, go through ruamel.yaml's emitter, which is slow."""
    if type(value) is int or (type(value) is str and _PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return str(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _emit(str(value), isinstance(value, float))


@lru_cache(maxsize=1000)
def _emit(text: str, is_float: bool) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = True
    yaml.allow_unicode = True
    yaml.width = 1_000_000_000
    stream = io.StringIO()
    yaml.dump([float(text) if is_float else text], stream)
    return stream.getvalue().rstrip("\n")[1:-1]
