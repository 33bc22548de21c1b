"""The JSON Schema of a recipe, for editors. It has each field; constraints between sections are only in `tfkit check`."""

from typing import Any

from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.model.config import ModelConfig
from tfkit.recipe.schema.sections import Recipe

_NULLABLE = ("vocab_size", "hidden_dim", "num_kv_heads", "head_dim")


def json_schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12. The model's fields are all optional, nested ones too, since a preset may give them."""
    schema = Recipe.model_json_schema()
    model = ModelConfig.model_json_schema()
    parts = {f"Model{name}": _optional(part) for name, part in model.pop("$defs").items()}
    fields = _renamed(_optional(model))["properties"]
    for name in _NULLABLE:
        description = fields[name].pop("description")
        fields[name] = {"anyOf": [fields[name], {"type": "null"}], "description": description}
    preset = schema["$defs"]["ModelSection"]["properties"]["preset"]
    preset["anyOf"] = [{"type": "string", "enum": [*PRESETS, *RELEASES]}, {"type": "null"}]
    schema["$defs"]["ModelSection"] |= {"properties": {"preset": preset, **fields}, "additionalProperties": False}
    schema["$defs"] |= _renamed(parts)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _optional(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "required"}


def _renamed(value: Any) -> Any:
    """Rename references to the model's own parts, and turn unions that a part without its kind may match twice into anyOf."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {("anyOf" if name == "oneOf" else name): _renamed(inner) for name, inner in value.items() if name != "discriminator"}
    if isinstance(reference := renamed.get("$ref"), str):
        renamed["$ref"] = reference.replace("#/$defs/", "#/$defs/Model")
    return renamed
