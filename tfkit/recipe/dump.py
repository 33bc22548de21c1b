"""The resolved recipe as YAML: every field with its value, so that running it again does not depend on today's defaults."""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from tfkit.model.config import ModelConfig
from tfkit.recipe.schema.sections import Recipe


class _Representer(SafeRepresenter):
    """Quotes every text that is not plain: the emitter alone would fold line breaks of other scripts into spaces."""

    def represent_str(self, data: str) -> Any:
        """Represent a text; in double quotes, with escapes, if it has unprintable characters or would begin a key."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if data.startswith("?") or not data.isprintable() else None)


_Representer.add_representer(str, _Representer.represent_str)


def dump_recipe(recipe: Recipe, config: ModelConfig | None) -> str:
    """Return text that read_recipe reads back to an equal recipe; with a config, the model section has every field of it."""
    return dump_document(recipe_document(recipe, config))


def recipe_document(recipe: Recipe, config: ModelConfig | None) -> dict[str, Any]:
    """Return the recipe as nested dicts, as `dump_recipe` writes them."""
    document = recipe.model_dump(mode="json")
    document["model"] = _model(recipe, config)
    if recipe.tokenizer.path is not None:
        document["tokenizer"] = {"path": recipe.tokenizer.path}  # the training fields beside it would not be read
    return document


def dump_document(document: dict[str, Any]) -> str:
    """Return a recipe's document as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.default_flow_style = None  # lists and sections of scalars on one line
    yaml.allow_unicode = True
    yaml.width = 10_000
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _model(recipe: Recipe, config: ModelConfig | None) -> dict[str, Any]:
    section = recipe.model
    named = {"preset": section.preset, "from": section.start, "sha256": section.sha256}
    preset = {name: value for name, value in named.items() if value is not None}
    return preset | (recipe.model.changes if config is None else config.model_dump(mode="json"))
