"""The JSON Schema of a recipe, or of a chain of recipes, for editors. It lacks constraints between fields, which `tfkit check` checks."""

from typing import Any

from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.model.config import ModelConfig
from tfkit.recipe.reading.stage_trees import STAGE_NAME, START
from tfkit.recipe.reading.tree import STAGES
from tfkit.recipe.schema.sections import START_FIELDS, Recipe

_NULLABLE = ("vocab_size", "hidden_dim", "num_kv_heads", "head_dim")
_START = {
    "from": "The checkpoint from which a fine-tuning starts; in a recipe with stages, this may be the name of an earlier stage.",
    "sha256": "Required SHA-256 of the checkpoint in `from`, which tfkit writes into the recipe of a run.",
}
_CHAIN = {
    "title": "Chain",
    "type": "object",
    "properties": {
        STAGES: {
            "type": "object",
            "description": "Recipes by name, which are run in order; each may start from the model of an earlier one, or learn from it.",
            "propertyNames": {"pattern": f"^{STAGE_NAME}$"},
            "additionalProperties": {"$ref": "#/$defs/Stage"},
            "minProperties": 1,
        }
    },
    "required": [STAGES],
    "additionalProperties": False,
}


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a recipe or chain. No field of `model` is required, as a preset or checkpoint may set it."""
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
    start = {"type": "string", "description": "The earlier stage, or the checkpoint, from which this stage starts; short for model.from."}
    required = [name for name in recipe["required"] if name != "model"]
    return {**recipe, "title": "Stage", "properties": {START: start, **recipe["properties"]}, "required": required}


def _optional(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "required"}


def _renamed(value: Any) -> Any:
    """Return a schema with `Model` before names in references, and anyOf for oneOf, as a section without `kind` may fit several kinds."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {("anyOf" if name == "oneOf" else name): _renamed(inner) for name, inner in value.items() if name != "discriminator"}
    if isinstance(reference := renamed.get("$ref"), str):
        renamed["$ref"] = reference.replace("#/$defs/", "#/$defs/Model")
    return renamed
