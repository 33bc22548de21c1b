"""Random recipes: drawn from the published schema, so that many are valid; of any shape; and bundled ones, mutated."""

import json
import random
from pathlib import Path
from typing import Any

from attacks.mutations import mutated_bytes, mutated_values
from hypothesis import strategies as st
from schema_walk import walk

from tfkit.model.config import ModelConfig
from tfkit.recipe import bundled_recipes, json_schema
from tfkit.recipe.reading.parse import parse
from tfkit.recipe.reading.tree import plain
from tfkit.recipe.reading.validate import section_types
from tfkit.recipe.schema.sections import Recipe

Strategy = st.SearchStrategy[Any]

# -- of any shape

WORDS = [
    *("adamw", "adafactor", "muon", "noam", "causal_lm", "byte_bpe", "cosine", "wsd", "rotary", "learned", "rms", "layer", "lm", "gelu"),
    *("gpt2", "llama-7b", "FRA", "", "3", "\ud83d\ude00"),
]
SCALARS: Strategy = (
    st.none() | st.booleans() | st.integers(-2, 70) | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
)
NAMES = sorted({name for _, _, name in walk(Recipe)})
ANY: Strategy = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def section(annotation: Any) -> Strategy:
    """Draw values for a field: mostly of the right shape, with right and wrong names and values."""
    inner = list(section_types(annotation))
    if not inner:
        return SCALARS
    fields = {name: field.annotation for record in inner for name, field in record.model_fields.items()}
    if any("preset" in record.model_fields for record in inner):
        fields |= {name: field.annotation for name, field in ModelConfig.model_fields.items()}
    mapping = st.fixed_dictionaries({}, optional={name: section(inner) for name, inner in fields.items()})
    return mapping | st.lists(mapping, max_size=2) if "list" in str(annotation) else mapping


GOOD = {"model": {"preset": "gpt2"}, "data": {"train": [{"stdlib": True}]}, "training": {"steps": 10}}
SHAPELESS: Strategy = st.fixed_dictionaries(
    {}, optional={name: section(field.annotation) | ANY for name, field in Recipe.model_fields.items()}
)
# Two sections are random and the rest is valid, so that some pass, and the later checks are reached.
NEARLY: Strategy = st.dictionaries(st.sampled_from(list(Recipe.model_fields)), st.none(), max_size=2).flatmap(
    lambda names: st.fixed_dictionaries({name: section(Recipe.model_fields[name].annotation) for name in names}).map(
        lambda found: GOOD | found
    )
)
OVERRIDES: Strategy = st.lists(
    st.tuples(
        st.lists(st.sampled_from([*NAMES, *Recipe.model_fields, "0", "1"]), min_size=1, max_size=3), SCALARS | st.text(max_size=8)
    ).map(lambda pair: f"{'.'.join(pair[0])}={pair[1]}")
    | st.text(max_size=8),
    max_size=2,
)

# -- from the schema

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8) | st.sampled_from(["no", "1e-4", "~", "- a", "#", "\ufeff", "<<"])


def from_schema(schema: dict[str, Any], definitions: dict[str, Any]) -> Strategy:
    """Draw values that a JSON Schema of tfkit allows; the sections' sizes and numbers small enough to be usable together."""
    match schema:
        case {"$ref": name}:
            return st.deferred(lambda: from_schema(definitions[name.rpartition("/")[2]], definitions))
        case {"const": value}:
            return st.just(value)
        case {"enum": values}:
            return st.sampled_from(values)
        case {"anyOf": branches} | {"oneOf": branches}:
            return st.one_of([from_schema(branch, definitions) for branch in branches])
        case {"type": "integer"}:
            least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return st.integers(least, least + 40) | st.sampled_from([least, 64])
        case {"type": "number"}:
            return _numbers(schema)
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "null"}:
            return st.none()
        case {"type": "string", "pattern": _}:
            return st.sampled_from(["FRA", "DEU", "USA"])
        case {"type": "string"}:
            return TEXTS
        case {"type": "array", "prefixItems": items}:
            return st.tuples(*[from_schema(item, definitions) for item in items]).map(list)
        case {"type": "array", "items": item}:
            return st.lists(from_schema(item, definitions), min_size=schema.get("minItems", 0), max_size=3)
        case {"type": "object", "additionalProperties": {**inner}}:
            return st.dictionaries(TEXTS, from_schema(inner, definitions), max_size=2)
        case {"type": "object", "properties": properties}:
            each = {name: from_schema(value, definitions) for name, value in properties.items()}
            required = schema.get("required", [])
            return st.fixed_dictionaries(
                {name: each[name] for name in required}, optional={name: each[name] for name in each if name not in required}
            )
    raise AssertionError(f"nothing is drawn for {schema}: add it to this function")


def _numbers(schema: dict[str, Any]) -> Strategy:
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 10.0))
    return st.floats(least, most, exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema)


def tidy(recipe: dict[str, Any]) -> dict[str, Any]:
    """Restore what the schema cannot express: one length, one source, no unread option."""
    training, tokenizer = recipe["training"], recipe.get("tokenizer", {})
    for name in ("steps", "epochs", "tokens"):
        training.pop(name, None)
    training["steps"] = 50
    if training.get("micro_batch_size"):
        training["batch_size"] = training["micro_batch_size"] * 2
    if training.get("batch_ramp"):
        training["batch_ramp"]["start"] = training.get("micro_batch_size") or 1
        training["batch_size"] = training["batch_ramp"]["start"] * 2
    schedule = recipe.get("schedule", {})
    if schedule.get("warmup_tokens"):
        schedule.pop("warmup_steps", None)
    if schedule.get("kind") != "inverse_sqrt":
        schedule.pop("flat_steps", None)
    if schedule.get("kind") not in ("linear", "cosine"):
        schedule.pop("decay_end", None)
    if schedule.get("kind") == "noam":
        recipe["schedule"], recipe["optimizer"] = {"kind": "noam", "warmup_steps": 20}, {"kind": "adam", "lr": 1.0}
    if tokenizer.get("path") is not None:
        recipe["tokenizer"] = {"path": tokenizer["path"]}
    sections = recipe["data"]["train"] + (recipe["data"].get("validation") if isinstance(recipe["data"].get("validation"), list) else [])
    for source in sections:
        source.clear()
        source["stdlib"] = True
    recipe["model"].pop("preset", None)
    recipe["model"] = {"preset": "gpt2"} | {
        name: value
        for name, value in recipe["model"].items()
        if name in ("context_length", "decoder_layers", "dropout", "init", "norm", "head")
    }
    carbon = recipe.get("carbon", {})
    for name in ("intensity_file", "embodied_g_per_device_hour", "embodied_source", "on_meter_failure"):
        carbon.pop(name, None)
    if carbon.get("enabled") is False:
        for name in ("budget_g", "budget_kwh"):
            carbon.pop(name, None)
    if recipe.get("evaluation", {}).get("every") and not recipe["data"].get("validation"):
        recipe["evaluation"].pop("every")
    return recipe


_SCHEMA = json_schema()
FROM_SCHEMA: Strategy = from_schema(_SCHEMA["$defs"]["Recipe"], _SCHEMA["$defs"])
RECIPES: Strategy = FROM_SCHEMA.map(tidy) | FROM_SCHEMA.map(tidy) | FROM_SCHEMA | NEARLY | SHAPELESS


def as_yaml(recipe: Any) -> bytes:
    """Encode as JSON, which is YAML."""
    return json.dumps(recipe, ensure_ascii=False).encode("utf-8", "replace")


# -- mutations


def has_stages(path: Path) -> bool:
    """Return whether a bundled recipe is a chain, without parsing it, which takes long for all of them."""
    return "\nstages:" in path.read_text(encoding="utf-8")


BUNDLED = [recipe.path.read_bytes() for recipe in bundled_recipes() if not has_stages(recipe.path)]
_PIECES = [
    *(b"\t", b"\0", b"\xff", b"&a ", b"*a", b"!!python/object:os.system ", b"{", b"[", b"- ", b": ", b"? ", b"#", b"|", b"'", b'"', b"\r"),
    *(b"---\n", b"...\n", b".nan", b"1e999", b"-1", b"0", b"9" * 30, b"null", b"no", "\u2028".encode(), b"\xef\xbb\xbf", b"<<: "),
    *(b"%YAML 1.1\n", b"\n", b" ", b"~"),
]


_VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2**62, 2**80, 1.5, -0.0, 1e308, float("nan"), float("inf"), "", "no", "x" * 1000, [], {}, [[]], {"": 0}),
    *({"kind": "muon"}, {"preset": "gpt2"}, [{"path": "/"}], "\x85", "FRA"),
]


def mutated_text(dice: random.Random) -> bytes:
    """Return the bytes of a bundled recipe with a few pieces removed, inserted, doubled or changed."""
    content = dice.choice(BUNDLED)
    for _ in range(dice.randint(1, 6)):
        content = mutated_bytes(content, dice, _PIECES, most=40)
    return content


def mutated_tree(dice: random.Random) -> bytes:
    """Return a bundled recipe whose values and names were changed, removed or moved."""
    recipe = plain(parse(dice.choice(BUNDLED).decode(), "bundled")[0])
    for _ in range(dice.randint(1, 3)):
        recipe = mutated_values(recipe, dice, _VALUES, NAMES)
    return as_yaml(recipe)
