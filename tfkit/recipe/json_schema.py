"""The JSON Schema of a recipe, or of a chain of recipes, for editors.

It has every field; constraints between sections are checked by `tfkit check` only.
"""

from typing import Any

from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.model.config import ModelConfig
from tfkit.recipe.reading.stage_trees import STAGE_NAME, START
from tfkit.recipe.reading.tree import STAGES
from tfkit.recipe.schema.sections import START_FIELDS, Recipe

_NULLABLE = ("vocab_size", "hidden_dim", "num_kv_heads", "head_dim")
_START = {
    "from": "The checkpoint that a fine-tuning starts from; in a recipe with stages also the name of an earlier one.",
    "sha256": "The hash of that checkpoint, as a resolved recipe has it.",
}
_CHAIN = {
    "title": "Chain",
    "type": "object",
    "properties": {
        STAGES: {
            "type": "object",
            "description": "Recipes by name, which are run one after another; each may start from an earlier one, or learn from it.",
            "propertyNames": {"pattern": f"^{STAGE_NAME}$"},
            "additionalProperties": {"$ref": "#/$defs/Stage"},
            "minProperties": 1,
        }
    },
    "required": [STAGES],
    "additionalProperties": False,
}


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a recipe or a chain.

    The model's fields are all optional, nested ones too, since a preset or a checkpoint may set them.
    """
    schema = Recipe.model_json_schema()
    model = ModelConfig.model_json_schema()
    parts = {f"Model{name}": _optional(part) for name, part in model.pop("$defs").items()}
    fields = _renamed(_optional(model))["properties"]
    for name in _NULLABLE:
        description = fields[name].pop("description")
        fields[name] = {"anyOf": [fields[name], {"type": "null"}], "description": description}
    preset = schema["$defs"]["ModelSection"]["properties"]["preset"]
    preset["anyOf"] = [{"type": "string", "enum": [*PRESETS, *RELEASES]}, {"type": "null"}]
    start = {name: {"type": "string", "description": _START[name]} for name in START_FIELDS}
    schema["$defs"]["ModelSection"] |= {"properties": {"preset": preset, **start, **fields}, "additionalProperties": False}
    definitions = schema.pop("$defs") | _renamed(parts)
    definitions |= {"Recipe": schema, "Stage": _stage(schema)}
    forms = {"anyOf": [{"$ref": "#/$defs/Recipe"}, _CHAIN]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **forms, "$defs": definitions}


def _stage(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a stage: a recipe that may have `from` beside its sections."""
    start = {"type": "string", "description": "The earlier stage, or the checkpoint, from which it starts: short for model.from."}
    required = [name for name in recipe["required"] if name != "model"]
    return {**recipe, "title": "Stage", "properties": {START: start, **recipe["properties"]}, "required": required}


def _optional(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "required"}


def _renamed(value: Any) -> Any:
    """Rename references to the model's sections, and turn unions into anyOf: a section without `kind` may match several members."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {("anyOf" if name == "oneOf" else name): _renamed(inner) for name, inner in value.items() if name != "discriminator"}
    if isinstance(reference := renamed.get("$ref"), str):
        renamed["$ref"] = reference.replace("#/$defs/", "#/$defs/Model")
    return renamed
