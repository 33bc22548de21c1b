import json
from typing import Any

from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.model.config import ModelConfig
from tfkit.recipe import json_schema
from tfkit.recipe.schema.sections import Recipe


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [reference for inner in value.values() for reference in references(inner)]
    return [reference for inner in value for reference in references(inner)] if isinstance(value, list) else []


def test_the_schema_offers_every_field() -> None:
    schema = json_schema()
    recipe = schema["$defs"]["Recipe"]
    assert schema["anyOf"][0] == {"$ref": "#/$defs/Recipe"}
    assert set(recipe["properties"]) == set(Recipe.model_fields)
    assert recipe["required"] == ["model", "data", "training"]
    model = schema["$defs"]["ModelSection"]
    assert set(model["properties"]) == {"preset", "from", "sha256", *ModelConfig.model_fields}
    assert not model.get("required")
    assert model["additionalProperties"] is False
    assert model["properties"]["preset"]["anyOf"][0]["enum"] == [*PRESETS, *RELEASES]
    assert {"type": "null"} in model["properties"]["hidden_dim"]["anyOf"]


def test_stages_are_recipes_that_may_begin_from_one_another() -> None:
    schema = json_schema()
    stages, stage = schema["anyOf"][1]["properties"]["stages"], schema["$defs"]["Stage"]
    assert stages["additionalProperties"] == {"$ref": "#/$defs/Stage"}
    assert set(stage["properties"]) == {"from", *Recipe.model_fields}
    assert stage["required"] == ["data", "training"]
    assert stage["additionalProperties"] is False


def test_nested_parts_of_the_model_are_optional_too() -> None:
    parts = {name: part for name, part in json_schema()["$defs"].items() if name.startswith("Model") and name != "ModelSection"}
    assert len(parts) >= 6
    assert not [name for name, part in parts.items() if "required" in part]


def test_it_is_plain_json_and_its_references_lead_somewhere() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert references(schema)
    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} <= schema["$defs"].keys()
