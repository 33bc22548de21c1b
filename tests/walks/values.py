"""Values of a recipe's fields, drawn from the schema of its records, so that a new field is drawn without being listed here."""

import random
from functools import cache
from typing import Any

from pydantic import BaseModel
from schema_walk import inner_sections, walk

ODD_TEXTS = ["Straße", "🙂", "東京都", "été", "तमिल", "تجربة", "தமிழ்", "<|endoftext|>", "</s>", "[MASK]", "<extra_id_0>", "a" * 40, "'\"\\"]
# Texts without a token in some tokenizers: a row of labelled words that has one is bad.
INVISIBLE = ["\u200b", "\t", "\u0301", "\x7f", "\u2028", "\ufeff"]

# Fields for which the schema's values are of little use: too large for a tiny run, or dependent on the rest of the recipe.
CHOICES: dict[str, list[Any]] = {
    "optimizer.lr": [1e-4, 1e-3, 1e-2, 0.1],
    "optimizer.adamw_lr": [1e-3, 1e-2],
    "optimizer.eps": [1e-8, 1e-6, 1e-30],
    "optimizer.clip_norm": [0.1, 1.0, None],
    "optimizer.weight_decay": [0.0, 0.1, 0.5],
    "optimizer.layer_decay": [0.5, 0.9],
    "schedule.warmup_steps": [1, 2],
    "schedule.warmup_tokens": [30, 60],
    "training.batch_ramp": [{"start": 1, "tokens": 60}, {"start": 2, "tokens": 100}],
    "training.micro_batch_size": [1, 2, 3, 4],
    "training.patience": [1, 2],
    "training.trial_rates": [[1e-3], [1e-4, 0.1]],
    "training.loss_jump_sigmas": [3.0, 6.0],
    "training.ema_decay": [0.5, 0.99],
    "training.frozen": [["embedding.*"], ["*.blocks.0.*"], ["*norm*"]],
    "checkpoint.every": [1, 2, 3, "epoch"],
    "evaluation.every": [1, 2, 3, "epoch"],
    "evaluation.max_tokens": [20, 200],
    "generation.max_new_tokens": [1, 4, 8],
    "generation.num_beams": [1, 2, 3],
    "generation.prompts": [["the cat"], ["", "Straße 🙂"]],
    "generation.stop": [["the"], ["\n", "cat"]],
    "tokenizer.vocab_size": [270, 300, 400],
    "tokenizer.sample_bytes": [50, 1000],
    "tokenizer.special_tokens": [["<x>"], ["<|im_start|>", "<|im_end|>"]],
    "data.rows": [8, 40],
    "data.max_lost": [0.9, 0.99],
    "data.sequence_length": [8, 12],
    "model.vocab_size": [509, 512],
    "model.context_length": [12, 16, 33],
    "model.dim": [8, 16, 24],
    "model.num_heads": [1, 2, 4],
    "model.num_kv_heads": [1, 2],
    "model.head_dim": [4, 6],
    "model.hidden_dim": [12, 40],
    "model.mlp.experts": [{"count": 3, "active": 1}, {"count": 4, "active": 2, "hidden_dim": 8, "layers": [True, False]}],
    "model.attention.windows": [[4, None], [3], [None, 5], [None]],
    "model.attention.softcap": [2.0, 20.0],
    "model.attention.scale": [0.2, 1.0],
    "model.init.std": [0.05, 0.3],
    "model.position": [
        {"kind": "learned"},
        {"kind": "sinusoidal", "layout": "halves"},
        {"kind": "sinusoidal", "layout": "interleaved"},
        {"kind": "rotary"},
        {"kind": "rotary", "theta": 100.0, "scaling": {"factor": 4.0, "original_context_length": 8}},
        {"kind": "rotary", "theta": 100.0, "local_theta": 10.0, "layers": [True, False]},
        {"kind": "rotary", "theta": 9.0, "scaling": {"kind": "yarn", "factor": 4.0, "original_context_length": 12}},
        {"kind": "rotary", "scaling": {"kind": "linear", "factor": 4.0}},
        {"kind": "relative", "buckets": 8, "max_distance": 12},
    ],
    "parallel.shard": [1],  # a walk has one process
    "parallel.replicas": ["auto", 1],
    "objective.temperature": [1.0, 2.0],
    "objective.teacher_weight": [1.0, 0.5],
    "objective.prompts": [1, 2, 4],
    "objective.completions": [2, 3, 6, 12],
    "objective.inner_epochs": [1, 2],
    "objective.max_new_tokens": [1, 3, 6],
    "objective.no_eos_reward": [-1.0, None],
    "objective.beta": [0.0, 0.1],
    "objective.kl_limit": [0.001, 5.0],
    "objective.kl_stop": [1000.0, None],
}

# Fields that are drawn elsewhere (sources, lengths), that take minutes, or that a walk cannot provide.
NEVER = {
    *("tokenizer.path", "training.compile", "training.tensorboard", "training.adapter", "training.seed", "generation.seed"),
    *("objective.gold", "objective.gold_sha256", "objective.policy_sha256", "objective.judge_sha256"),
    *("objective.reward", "objective.reward_sha256", "objective.value", "objective.value_sha256"),
    *("objective.teacher", "objective.teacher_sha256", "objective.of", "objective.copy_layers", "objective.labels", "objective.regression"),
    *("objective.start", "objective.delimiter", "objective.classify", "objective.template", "objective.choices", "objective.separator"),
    *("training.steps", "training.epochs", "training.tokens", "training.batch_size", "evaluation.metric", "tokenizer.variant"),
    *("data.train", "data.validation", "data.pretraining", "model.encoder_layers", "model.decoder_layers"),
    "model.routing",  # of mixtures of experts alone
}


def draw(dice: random.Random, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Draw a small value that a JSON Schema allows."""
    match schema:
        case {"$ref": name}:
            return draw(dice, definitions[name.rpartition("/")[2]], definitions)
        case {"const": value}:
            return value
        case {"enum": values}:
            return dice.choice(values)
        case {"anyOf": branches} | {"oneOf": branches}:
            return draw(dice, dice.choice(branches), definitions)
        case {"type": "integer"}:
            least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return dice.randint(least, min(schema.get("maximum", least + 6), least + 6))
        case {"type": "number"}:
            least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
            most = schema.get("maximum", schema.get("exclusiveMaximum", least + 3))
            return round(dice.uniform(least, most), 3)
        case {"type": "boolean"}:
            return dice.random() < 0.5
        case {"type": "null"}:
            return None
        case {"type": "string"}:
            return dice.choice(ODD_TEXTS)
        case {"type": "array", "prefixItems": items}:
            return [draw(dice, item, definitions) for item in items]
        case {"type": "array", "items": item}:
            return [draw(dice, item, definitions) for _ in range(dice.randint(schema.get("minItems", 0), 2))]
        case {"type": "object", "properties": properties}:
            required = schema.get("required", [])
            return {name: draw(dice, properties[name], definitions) for name in properties if name in required or dice.random() < 0.3}
    raise AssertionError(f"nothing is drawn for {schema}: add it to this function")


@cache
def fields(record: type[BaseModel], path: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return the dotted path of each field of a section, its schema, and the schema's definitions; also for sections inside it."""
    found: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for field, section, name in walk(record, f"{path}."):
        is_within = "[" in field or any(field.startswith(f"{whole}.") for whole in (*CHOICES, *NEVER))
        if name != "kind" and field not in NEVER and not is_within and (field in CHOICES or not inner_sections(section, name)):
            schema = section.model_json_schema()
            found.append((field, schema["properties"][name], schema.get("$defs", {})))
    return found


def value_of(dice: random.Random, path: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Draw a value for the field at a dotted path."""
    return dice.choice(CHOICES[path]) if path in CHOICES else draw(dice, schema, definitions)
