"""No option without a reader: for every field of the recipe, a change of it and what it changes in a real run.

Each row of TABLE makes two runs of the real command, which differ in the one field, and looks at something in which they must differ. A
field without a row fails, and so does a row whose field is gone.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_args

import datasets
import numpy as np
import pytest
import torch
import torch._dynamo
import torch.utils.checkpoint
from pydantic import BaseModel
from tiny_files import write_rows
from tokenizers import Tokenizer

from tfkit.__main__ import main
from tfkit.carbon.sidecar_process import SidecarProcess
from tfkit.engine.planning.machine_speed import machine_speed
from tfkit.engine.training_run.assembled_run import AssembledRun
from tfkit.model.config import ModelConfig
from tfkit.model.stack import Block
from tfkit.model.transformer import build
from tfkit.recipe.reading.fields import section_types, tags
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.sections import ModelSection, Recipe
from tfkit.reporting.formats.sci import sci
from tfkit.reporting.run_facts import read_facts

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.compile's own, at its import

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "ran", "fast", "slow", "big", "small", "red", "blue", "tree"]

RECIPE = """
model: {preset: gpt2, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 16, init: {std: 0.2}}
tokenizer: {vocab_size: 300}
data: {train: [{path: one.jsonl}], validation: [{path: two.jsonl}]}
optimizer: {lr: 1e-2}
training: {steps: 4, batch_size: 4, precision: fp32}
evaluation: {max_tokens: 200}
carbon: {enabled: false}
"""


@dataclass
class Seen:
    """A run that has ended: its folder, the run as it was assembled, the arguments of its meter, and the forwards of its blocks."""

    folder: Path
    words: tuple[str, ...]
    run: AssembledRun = field(init=False)
    metered: list[dict[str, Any]] = field(default_factory=list)
    block_forwards: int = 0
    hub: list[Any] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)

    def records(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [record for record in map(json.loads, lines) if kind in record]


# -------------------------------------------------------------------------------------------------------- what is looked at


def curve(seen: Seen) -> list[tuple[float, float]]:
    """The loss and the gradient's norm: of the model, the data, and all that moves the weights."""
    return [(record["loss"], record["grad_norm"]) for record in seen.records("loss")]


def weights(seen: Seen) -> list[float]:
    """The weights at the end."""
    return [float(parameter.detach().double().sum()) for parameter in seen.run.components.weights.master.values()]


def lr(seen: Seen) -> list[float]:
    return [record["lr"] for record in seen.records("loss")]


def shapes(seen: Seen) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the parameters."""
    return {name: tuple(parameter.shape) for name, parameter in seen.run.components.weights.master.items()}


def evaluation(seen: Seen) -> list[dict[str, float]]:
    return [record["evaluation"] for record in seen.records("evaluation")]


def evaluated_steps(seen: Seen) -> list[int]:
    return [record["step"] for record in seen.records("evaluation")]


def logged_steps(seen: Seen) -> list[int]:
    return [record["step"] for record in seen.records("loss")]


def samples(seen: Seen) -> list[Any]:
    """The texts that the model wrote at the last evaluation."""
    return [record["samples"] for record in seen.records("samples")][-1:]


def checkpoints(seen: Seen) -> list[str]:
    return sorted(path.name for path in (seen.folder / "checkpoints").glob("step-*"))


def judge(seen: Seen) -> Any:
    """The metric by which the best checkpoint was chosen."""
    return json.loads((seen.folder / "checkpoints" / "best.json").read_text(encoding="utf-8"))["metric"]


def weight_files(seen: Seen) -> list[str]:
    """The files of the model in the last checkpoint."""
    return sorted(path.name for path in (seen.folder / "checkpoints" / checkpoints(seen)[-1]).glob("*.safetensors"))


def steps(seen: Seen) -> int:
    return seen.run.components.plan.steps


def guards(seen: Seen) -> tuple[int, float | None]:
    """The steps that the loop may skip, and its limit for a jump of the loss; tests/faults/test_health.py shows the effect."""
    return seen.run.components.plan.max_skipped_steps, seen.run.components.plan.loss_jump_sigmas


def mesh(seen: Seen) -> Any:
    """How its ranks would divide a training; tests/parallel/test_shared_weights.py shows it at work."""
    return seen.run.run.recipe.parallel


def rewards(seen: Seen) -> list[float]:
    """The rewards of sampled responses, in the steps and of the held-out prompts."""
    return [record["reward"] for record in seen.records("reward")] + [one["reward"] for one in evaluation(seen)]


def golds(seen: Seen) -> list[float]:
    """The scores of a gold model, of the responses in the steps and of the held-out prompts."""
    found = [record["gold"] for record in seen.records("gold")] + [one["gold"] for one in evaluation(seen) if "gold" in one]
    return [score for score in found if score != 0]


def limits(seen: Seen) -> tuple[float | None, float | None]:
    """Of the distance from the reference; tests/alignment shows both at work."""
    section = seen.run.run.recipe.objective
    return section.kl_limit, section.kl_stop  # type: ignore[attr-defined]


def limit(seen: Seen) -> float | None:
    """Of rows that may be lost; tests/cli/test_preflight.py shows it at work."""
    return seen.run.run.recipe.data.max_lost


def card_languages(seen: Seen) -> str:
    """The languages in the front matter of the last checkpoint's card."""
    card = (seen.folder / "checkpoints" / checkpoints(seen)[-1] / "README.md").read_text(encoding="utf-8")
    return card.partition("\nlanguage:")[2].partition("\nmodel-index:")[0]


def micro_batches(seen: Seen) -> list[int]:
    return [len(batch.input_ids) for batch in seen.run.components.loader.step(0)]


def row_counts(seen: Seen) -> list[int]:
    """The rows of each step."""
    return [len(seen.run.components.loader.numbers(step)) for step in range(12)]


def order(seen: Seen) -> list[int]:
    """The rows of the first step, and how many an epoch has."""
    return [len(seen.run.components.loader.rows), *map(int, seen.run.components.loader.numbers(0))]


def targets(seen: Seen) -> list[int]:
    """Who may see whom, and what has a target, in the first steps."""
    found = [batch for step in range(4) for batch in seen.run.components.loader.step(step)]
    return [int((batch.labels >= 0).sum()) for batch in found] + [batch.document_ids is not None for batch in found]


def hidden_tokens(seen: Seen) -> list[Any]:
    """The inputs and targets of a masked language model in the first step, and in one of the second epoch."""
    found = [batch for step in (0, 20) for batch in seen.run.components.loader.step(step)]
    return [(batch.input_ids.tolist(), batch.labels.tolist()) for batch in found]


def base_terms(seen: Seen) -> list[str]:
    """The objective of a student besides its teacher."""
    return list(seen.run.components.stepper.objective.base.terms)


def tokenizer(seen: Seen) -> tuple[int, list[int]]:
    """Its size, and the ids of a text."""
    codec = seen.run.run.data.tokenizer
    return codec.size, codec.encode_texts(["the cat sat on zebras, The Cát"])[0]


def train_data(seen: Seen) -> list[str]:
    return seen.run.run.data.fingerprints()["train"]


def validation_data(seen: Seen) -> list[str]:
    return seen.run.run.data.fingerprints()["validation"]


def precision(seen: Seen) -> torch.dtype:
    return seen.run.components.precision


def forwards(seen: Seen) -> int:
    """How often a block was computed."""
    return seen.block_forwards


def compiled(seen: Seen) -> bool:
    return seen.run.components.stepper.loss_module.model.decoder._compiled_call_impl is not None


def tensorboard(seen: Seen) -> bool:
    return any((seen.folder / "tensorboard").glob("events*"))


def meter(seen: Seen) -> list[Any]:
    """The arguments of the meter's process."""
    return [{name: spec[name] for name in ("place", "pue", "every_seconds")} for spec in seen.metered]


def budgets(seen: Seen) -> Any:
    """The limits of the run, and what happens where they cannot be counted."""
    budget = seen.run.run.budget
    return budget and (budget.limits, budget._carbon.on_meter_failure)


def embodied(seen: Seen) -> Any:
    """The embodied emissions in the report in the form of SCI, and their source."""
    rate = sci(read_facts(seen.folder), full=False)
    return rate["embodied_g"] / rate["embodied_device_hours"], rate["embodied_source"]


def idle(seen: Seen) -> list[float]:
    """The seconds for which the idle machine is measured."""
    return seen.idle


def hub(seen: Seen) -> list[Any]:
    """The arguments of the calls of the `datasets` library."""
    return seen.hub


def scored(seen: Seen) -> float:
    """The loss that `tfkit evaluate` gives, by the recipe that lies in the run folder."""
    return float(_result(seen, "scored")["metrics"]["loss"])


def judged(seen: Seen) -> list[Any]:
    """Which metrics it gives, and the ends of their intervals."""
    result = _result(seen, "judged")
    return [sorted(result["metrics"]), result["intervals"]]


def bleu_tokenizer(seen: Seen) -> str:
    """As the result has it; tests/cli/test_evaluate_answers.py shows it at work."""
    name: str = _result(seen, "judged")["bleu_tokenize"]
    return name


def _result(seen: Seen, name: str) -> dict[str, Any]:
    kept = seen.folder.with_name(f"{seen.folder.name}-{name}")
    assert main(["evaluate", "--from", str(seen.folder), "--run", str(kept), "--json"]) == 0
    found: dict[str, Any] = json.loads((kept / "run.json").read_text(encoding="utf-8"))["result"]
    return found


# ---------------------------------------------------------------------------------------------------------------- the table


class Change(NamedTuple):
    """`words` change the field; `look` sees it; `given` is said in both runs."""

    words: str
    look: Callable[[Seen], Any]
    given: str = ""


ROTARY = "model.position={kind: rotary}"
SCALED = "model.position={kind: rotary, scaling: {factor: 4, original_context_length: 8}}"
LINEAR = "model.position={kind: rotary, scaling: {kind: linear, factor: 4}}"
YARN = "model.position={kind: rotary, theta: 9, scaling: {kind: yarn, factor: 4, original_context_length: 40}}"
_FACTORS = "short_factors: [1, 2, 3, 4], long_factors: [1, 4, 9, 16], original_context_length: 8"
LONGROPE = f"model.position={{kind: rotary, scaling: {{kind: longrope, {_FACTORS}}}}}"
RELATIVE = "model.position={kind: relative, buckets: 8}"
BESIDE = "model.position={kind: learned, relative: {kind: relative, buckets: 8}}"
RMS = "model.norm.kind=rms"
WORDPIECE = "tokenizer.kind=wordpiece"
MUON = "optimizer={kind: muon, lr: 1e-2}"
ADAM = "optimizer={kind: adam, lr: 1e-2}"
ADAFACTOR = "optimizer={kind: adafactor, lr: 1e-2}"
WRITES = "generation.prompts=['the cat']"
DESCRIPTION: dict[str, Any] = {
    "vocab_size": 30,
    "context_length": 16,
    "dim": 16,
    "num_heads": 2,
    "position": {"kind": "learned"},
    "norm": {"kind": "layer"},
    "mlp": {"activation": "gelu"},
    "encoder_layers": 1,
    "init": {"std": 0.3},
}
DRAWS = f"{WRITES} | generation.max_new_tokens=24"
BEAMS = f"{DRAWS} | generation.num_beams=6 | generation.stop=[i, s]"
SPLITS = "data.train=[{path: splits}] | data.validation=null"
HUB = "data.train=[{hub: saved}]"
CONFIGS = "data.train=[{hub: configs}]"
STREAMED = "data.train=[{hub: saved, streamed: true}]"
HELD_OUT_HUB = "data.validation=[{hub: saved}]"
METERED = "carbon.enabled=true"
EMBODIED = "carbon.embodied_g_per_device_hour=10 | carbon.embodied_source=the maker"
TAUGHT = "tokenizer={path: first} | objective={kind: distillation, teacher: first, of: {kind: causal_lm}}"
ENCODER = "model={preset: bert-tiny, encoder_layers: 2, dim: 16, num_heads: 2, context_length: 16, init: {std: 0.2}}"
MASKS = f"{ENCODER} | {WORDPIECE} | objective={{kind: masked_lm}}"
DISENTANGLED = f"{MASKS} | model.position={{kind: disentangled, buckets: 8, max_distance: 14}}"
JOINED = "data.train.0.path=joined.jsonl"  # words of several pieces
MASKED_TAUGHT = f"{ENCODER} | tokenizer={{path: masked}} | objective={{kind: distillation, teacher: masked, of: {{kind: masked_lm}}}}"
LABELLED = "objective={kind: classification} | data.train=[{path: labelled.jsonl}] | data.validation=[{path: labelled.jsonl}]"
_NAMES = "{path: labelled.jsonl, columns: {label: value}, class_names: [i, h, g, f, e, d, c, b, a]}"
NAMED = f"objective={{kind: classification}} | data.train=[{_NAMES}] | data.validation=[{_NAMES}]"
SEVERAL = LABELLED.replace("classification", "multi_label")
_SOURCE = "[{path: questions.jsonl}]"
FOUND = f"{ENCODER} | {WORDPIECE} | objective={{kind: question_answering}} | data.train={_SOURCE} | data.validation={_SOURCE}"
FOUND += " | evaluation.max_tokens=3000"
_WORDS = "{path: labelled.jsonl, columns: {tokens: [text, body], tags: [label, label]}}"
TAGGED = f"objective={{kind: tagging}} | data.train=[{_WORDS}] | data.validation=[{_WORDS}]"
_ANSWERS = "{path: labelled.jsonl, columns: {context: text, choices: [label, body]}}"
_MARKS = "tokenizer.special_tokens=[_start_, _delimiter_, _classify_, <x>]"
ASKED = f"objective={{kind: multiple_choice}} | {_MARKS} | data.train=[{_ANSWERS}] | data.validation=[{_ANSWERS}]"
T5 = (
    "model={preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, hidden_dim: 32, context_length: 16}"
    " | tokenizer={kind: unigram, vocab_size: 200}"
)
SPANS = f"{T5} | objective={{kind: span_corruption, mean_span: 1}} | training.batch_size=32"  # more than an epoch
WRITTEN = f"{T5} | objective={{kind: text_to_text}} | " + " | ".join(
    f"data.{part}.0.columns={{source: text, target: body}}" for part in ("train", "validation")
)
CHAT = (
    "objective={kind: chat} | model.context_length=400 | tokenizer={variant: smollm2, vocab_size: 300} | data.validation=null | "
    "data.train.0.columns={instruction: text, output: body}"
)
_RULES = ("exact_answer", "number", "regex", "contains", "valid_json", "valid_python", "python")
_PROMPTS = "data.train=[{path: prompts.jsonl}] | data.validation=[{path: prompts.jsonl}] | training.log_every=1 | evaluation.every=1"
SAMPLED = f"objective={{kind: grpo, rules: [{{kind: contains, text: e}}], max_new_tokens: 4}} | {_PROMPTS}"


PPO = (
    "tokenizer={path: scored} | objective={kind: ppo, rules: [{kind: contains, text: e}], value: scored, prompts: 4, completions: 2, "
    f"max_new_tokens: 4}} | {_PROMPTS}"
)
MIXED = f"{PPO} | objective.ptx_weight=1 | data.pretraining=[{{path: one.jsonl}}]"


SCORED = [
    *("objective={kind: classification, regression: true}", "data.validation=null"),
    "data.train=[{path: labelled.jsonl, columns: {label: value}}]",
]


def rewarded(kind: str, weight: float = 1.0) -> str:
    """A rule that some responses of one token meet."""
    own = {"regex": ", pattern: '[a-z]'", "python": ", function: 'rewarding.py:reward', allow_code: true"}.get(kind, "")
    return f"objective.rules=[{{kind: {kind}, weight: {weight}{own}}}] | objective.max_new_tokens=1"


TURNS = CHAT.replace("data.train.0.columns={instruction: text, output: body}", "data.train.0={path: turns.jsonl}")
ADAPTED = "model={from: first} | tokenizer={} | training.adapter={rank: 2, dropout: 0.1}"
_PREFERRED = "{path: labelled.jsonl, columns: {prompt: label, chosen: text, rejected: body}}"
PREFERRED = f"tokenizer={{}} | data.train=[{_PREFERRED}] | data.validation=null"
DPO = f"model={{from: first}} | {PREFERRED} | objective={{kind: dpo}}"
FED = (
    "model={from: first} | tokenizer={} | objective={kind: ai_feedback, policy: first, judge: scored, max_new_tokens: 4, "
    f"of: {{kind: dpo}}}} | {_PROMPTS}"
)
TALKED = f"model={{from: talks}} | {PREFERRED}"

SPARSE = "model.mlp.experts={count: 3, active: 2}"
TABLE = {
    "model.preset": Change(
        "model={preset: llama-7b, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 16, hidden_dim: 32}", shapes
    ),
    "model.vocab_size": Change("model.vocab_size=310", shapes),
    "model.context_length": Change("model.context_length=12", shapes),
    "model.encoder_layers": Change("model.encoder_layers=3", shapes, MASKS),
    "model.head[masked_lm].tied": Change("model.head={kind: masked_lm, tied: false, next_sentence: false}", shapes, MASKS),
    "model.decoder_layers": Change("model.decoder_layers=3", shapes),
    "model.dim": Change("model.dim=18", shapes),
    "model.hidden_dim": Change("model.hidden_dim=40", shapes),
    "model.num_heads": Change("model.num_heads=4", curve),
    "model.num_kv_heads": Change("model.num_kv_heads=1", shapes),
    "model.head_dim": Change("model.head_dim=6", shapes),
    "model.position": Change(ROTARY, shapes),
    "model.position[rotary].theta": Change("model.position.theta=3", curve, ROTARY),
    "model.position[rotary].local_theta": Change("model.position.local_theta=3", curve, f"{ROTARY} | model.attention.windows=[3]"),
    "model.position[rotary].layers": Change("model.position.layers=[true,false]", curve, ROTARY),
    "model.position[rotary].fraction": Change("model.position.fraction=0.5", curve, ROTARY),
    "model.position[rotary].scaling": Change("model.position.scaling={kind: linear, factor: 4}", curve, ROTARY),
    "model.position[rotary].scaling[linear].factor": Change("model.position.scaling.factor=8", curve, LINEAR),
    "model.position[rotary].scaling[yarn].factor": Change("model.position.scaling.factor=8", curve, YARN),
    "model.position[rotary].scaling[yarn].beta_fast": Change("model.position.scaling.beta_fast=1.5", curve, YARN),
    "model.position[rotary].scaling[yarn].beta_slow": Change("model.position.scaling.beta_slow=0.1", curve, YARN),
    "model.position[rotary].scaling[yarn].attention_factor": Change("model.position.scaling.attention_factor=2", curve, YARN),
    "model.position[rotary].scaling[yarn].original_context_length": Change(
        "model.position.scaling.original_context_length=12", curve, YARN
    ),
    "model.position[rotary].scaling[llama3].factor": Change("model.position.scaling.factor=8", curve, SCALED),
    "model.position[rotary].scaling[llama3].low_freq_factor": Change("model.position.scaling.low_freq_factor=2", curve, SCALED),
    "model.position[rotary].scaling[llama3].high_freq_factor": Change("model.position.scaling.high_freq_factor=8", curve, SCALED),
    "model.position[rotary].scaling[llama3].original_context_length": Change(
        "model.position.scaling.original_context_length=4", curve, SCALED
    ),
    "model.position[rotary].scaling[longrope].short_factors": Change("model.position.scaling.short_factors=[9,1,1,1]", curve, LONGROPE),
    "model.position[rotary].scaling[longrope].long_factors": Change("model.position.scaling.long_factors=[9,1,1,1]", curve, LONGROPE),
    "model.position[rotary].scaling[longrope].attention_factor": Change("model.position.scaling.attention_factor=2", curve, LONGROPE),
    "model.position[rotary].scaling[longrope].original_context_length": Change(
        "model.position.scaling.original_context_length=4", curve, LONGROPE
    ),
    "model.position[learned].offset": Change("model.position.offset=2", shapes),
    "model.position[learned].relative.buckets": Change("model.position.relative.buckets=16", shapes, BESIDE),
    "model.position[learned].relative.max_distance": Change("model.position.relative.max_distance=10", curve, BESIDE),
    "model.position[disentangled].buckets": Change("model.position.buckets=16", shapes, DISENTANGLED),
    "model.position[disentangled].max_distance": Change("model.position.max_distance=9", curve, DISENTANGLED),
    "model.position[relative].buckets": Change("model.position.buckets=16", shapes, RELATIVE),
    "model.position[relative].max_distance": Change("model.position.max_distance=10", curve, RELATIVE),
    "model.position[sinusoidal].layout": Change("model.position.layout=interleaved", curve, "model.position={kind: sinusoidal}"),
    "model.embedding.scale": Change("model.embedding.scale=true", curve),
    "model.embedding.norm": Change("model.embedding.norm=true", shapes),
    "model.embedding.dim": Change("model.embedding.dim=12", shapes, MASKS),
    "model.embedding.segments": Change("model.embedding.segments=2", shapes),
    "model.norm": Change("model.norm.kind=rms", shapes),
    "model.norm[layer].eps": Change("model.norm.eps=0.1", curve),
    "model.norm[layer].placement": Change("model.norm.placement=post", shapes),
    "model.norm[layer].first": Change("model.norm.first=false", shapes),
    "model.norm[layer].bias": Change("model.norm.bias=false", shapes),
    "model.norm[rms].first": Change("model.norm.first=false", shapes, RMS),
    "model.norm[rms].eps": Change("model.norm.eps=0.1", curve, RMS),
    "model.norm[rms].placement": Change("model.norm.placement=sandwich", shapes, RMS),
    "model.norm[rms].unit_offset": Change("model.norm.unit_offset=true", weights, RMS),
    "model.attention.scale": Change("model.attention.scale=2", curve),
    "model.attention.softcap": Change("model.attention.softcap=0.1", curve),
    "model.attention.qk_norm": Change("model.attention.qk_norm=head", shapes),
    "model.attention.windows": Change("model.attention.windows=[3]", curve),
    "model.attention.qkv_bias": Change("model.attention.qkv_bias=false", shapes),
    "model.attention.out_bias": Change("model.attention.out_bias=false", shapes),
    "model.mlp.activation": Change("model.mlp.activation=relu", curve),
    "model.mlp.gated": Change("model.mlp.gated=true", shapes, "model.hidden_dim=40"),
    "model.mlp.bias": Change("model.mlp.bias=false", shapes),
    "model.mlp.experts.count": Change("model.mlp.experts.count=4", shapes, SPARSE),
    "model.mlp.experts.active": Change("model.mlp.experts.active=1", curve, SPARSE),
    "model.mlp.experts.hidden_dim": Change("model.mlp.experts.hidden_dim=8", shapes, SPARSE),
    "model.mlp.experts.normalized": Change("model.mlp.experts.normalized=false", curve, SPARSE),
    "model.mlp.experts.layers": Change("model.mlp.experts.layers=[true,false]", shapes, SPARSE),
    "model.routing.balance": Change("model.routing.balance=1", curve, SPARSE),
    "model.routing.z_loss": Change("model.routing.z_loss=1", curve, SPARSE),
    "model.head[lm].tied": Change("model.head.tied=false", shapes),
    "model.head[lm].bias": Change("model.head.bias=true", shapes),
    "model.head[lm].scale": Change("model.head.scale=0.5", curve),
    "model.head[lm].softcap": Change("model.head.softcap=0.5", curve),
    "model.head[lm].choices": Change("model.head.choices=true", shapes),
    "model.dropout.embedding": Change("model.dropout.embedding=0.3", curve),
    "model.dropout.attention": Change("model.dropout.attention=0.3", curve),
    "model.dropout.residual": Change("model.dropout.residual=0.3", curve),
    "model.dropout.hidden": Change("model.dropout.hidden=0.3", curve),
    "model.dropout.final": Change("model.dropout.final=0.3", curve),
    "model.init.scheme": Change("model.init.scheme=fan_in", curve),
    "model.init.std": Change("model.init.std=0.1", curve),
    "model.init.residual_scaling": Change("model.init.residual_scaling=false", curve),
    "tokenizer.kind": Change("tokenizer.kind=wordpiece", tokenizer),
    "tokenizer.variant": Change("tokenizer.variant=smollm2", tokenizer),
    "tokenizer.vocab_size": Change("tokenizer.vocab_size=290", tokenizer),
    "tokenizer.special_tokens": Change("tokenizer.special_tokens=['<x>']", tokenizer),
    "tokenizer.sample_bytes": Change("tokenizer.sample_bytes=300", tokenizer),
    "tokenizer.add_bos": Change("tokenizer.add_bos=false", tokenizer),
    "tokenizer.lowercase": Change("tokenizer.lowercase=false", tokenizer, WORDPIECE),
    "tokenizer.strip_accents": Change("tokenizer.strip_accents=false", tokenizer, WORDPIECE),
    "tokenizer.path": Change("tokenizer={path: finished}", tokenizer),
    "data.train": Change("data.train=[{path: two.jsonl}]", train_data),
    "data.train.stdlib": Change("data.train=[{stdlib: true}]", train_data, "tokenizer={path: finished}"),
    "data.train.path": Change("data.train.0.path=two.jsonl", train_data),
    "data.train.files": Change("data.train.0.files=all", train_data, SPLITS),
    "data.train.format": Change("data.train.0.format=text", train_data),
    "data.train.header": Change("data.train.0.header=[body, text]", train_data, "data.train=[{path: table.csv}]"),
    "data.train.field": Change("data.train.0.field=second", train_data, "data.train=[{path: keyed.json, field: first}]"),
    "data.train.beside": Change(
        "data.train.0.beside={other: two.jsonl}",
        train_data,
        "data.train=[{path: labelled.jsonl, text: other, beside: {other: one.jsonl}}]",
    ),
    "data.train.class_names": Change("data.train.0.class_names=[a, b, c, d, e, f, g, h, i]", train_data, NAMED),
    "data.train.hub": Change(HUB, train_data),
    "data.train.config": Change("data.train.0.config=second", train_data, CONFIGS),
    "data.train.split": Change("data.train.0.split=other", train_data, HUB),
    "data.train.revision": Change("data.train.0.revision=v2", hub, CONFIGS),
    "data.train.streamed": Change("data.train.0.streamed=true", train_data, HUB),
    "data.train.rows": Change("data.train.0.rows=9", train_data, STREAMED),
    "data.train.text": Change("data.train.0.text=body", train_data),
    "data.train.columns": Change("data.train.0.columns={text: body}", train_data),
    "data.train.weight": Change("data.train.0.weight=2", order),
    "data.validation": Change("data.validation=0.3", validation_data),
    "data.validation.stdlib": Change("data.validation=[{stdlib: true}]", validation_data),
    "data.validation.path": Change("data.validation.0.path=one.jsonl", validation_data),
    "data.validation.files": Change("data.validation.0.files=test", validation_data, "data.validation=[{path: splits}]"),
    "data.validation.format": Change("data.validation.0.format=text", validation_data),
    "data.validation.header": Change("data.validation.0.header=[body, text]", validation_data, "data.validation=[{path: table.csv}]"),
    "data.validation.field": Change(
        "data.validation.0.field=second", validation_data, "data.validation=[{path: keyed.json, field: first}]"
    ),
    "data.validation.beside": Change(
        "data.validation.0.beside={other: two.jsonl}",
        validation_data,
        "data.validation=[{path: labelled.jsonl, text: other, beside: {other: one.jsonl}}]",
    ),
    "data.validation.class_names": Change("data.validation.0.class_names=[a, b, c, d, e, f, g, h, i]", validation_data, NAMED),
    "data.validation.hub": Change(HELD_OUT_HUB, validation_data),
    "data.validation.config": Change("data.validation.0.config=second", validation_data, CONFIGS.replace("train", "validation")),
    "data.validation.split": Change("data.validation.0.split=other", validation_data, HELD_OUT_HUB),
    "data.validation.revision": Change("data.validation.0.revision=v2", hub, CONFIGS.replace("train", "validation")),
    "data.validation.streamed": Change("data.validation.0.streamed=true", validation_data, HELD_OUT_HUB),
    "data.validation.rows": Change("data.validation.0.rows=9", validation_data, STREAMED.replace("train", "validation")),
    "data.validation.text": Change("data.validation.0.text=body", validation_data),
    "data.validation.columns": Change("data.validation.0.columns={text: body}", validation_data),
    "data.validation.name": Change("data.validation=[{path: two.jsonl}, {path: one.jsonl, name: dev}]", evaluation),
    "data.rows": Change("data.rows=3", train_data),
    "data.split_by": Change("data.split_by=row", train_data, SPLITS),
    "data.sequence_length": Change("data.sequence_length=8", order),
    "data.length_groups": Change("data.length_groups=false", order, LABELLED),
    "data.language": Change("data.language=[en, de]", card_languages),
    "data.max_lost": Change("data.max_lost=0.5", limit, LABELLED),
    "data.on_bad_row": Change("data.on_bad_row=skip", train_data),
    "objective": Change(LABELLED, shapes),
    "objective[dpo].beta": Change("objective.beta=1", curve, DPO),
    "objective[dpo].label_smoothing": Change("objective.label_smoothing=0.2", curve, DPO),
    "objective[dpo].chat": Change("objective.chat=true", curve, f"{TALKED} | objective={{kind: dpo}}"),
    "objective[reward].every_token": Change("objective.every_token=true", curve, DPO.replace("dpo", "reward")),
    "objective[reward].chat": Change("objective.chat=true", curve, f"{TALKED} | objective={{kind: reward}}"),
    "objective[span_corruption].rate": Change("objective.rate=0.3", curve, SPANS),
    "objective[span_corruption].mean_span": Change("objective.mean_span=3", curve, SPANS),
    "objective[span_corruption].masking": Change("objective.masking=static", curve, SPANS),
    "objective[text_to_text].label_smoothing": Change("objective.label_smoothing=0.1", curve, WRITTEN),
    "objective[chat].format": Change("objective.format=mistral", curve, CHAT),
    "objective[chat].system": Change("objective.system=Rhyme.", curve, CHAT),
    "objective[chat].pack": Change("objective.pack=true", order, CHAT),
    "objective[chat].train_on": Change("objective.train_on=last", curve, TURNS),
    "objective[causal_lm].documents": Change("objective.documents=joined", targets),
    "objective[masked_lm].rate": Change("objective.rate=0.3", hidden_tokens, MASKS),
    "objective[masked_lm].split": Change("objective.split=[0, 0, 1]", hidden_tokens, MASKS),
    "objective[masked_lm].masking": Change("objective.masking=static", hidden_tokens, MASKS),
    "objective[masked_lm].whole_words": Change(
        "objective.whole_words=true", hidden_tokens, f"{MASKS} | tokenizer={{path: masked}} | {JOINED}"
    ),
    "objective[masked_lm].rarity": Change("objective.rarity=0.7", hidden_tokens, MASKS),
    "objective[masked_lm].next_sentence": Change("objective.next_sentence=true", shapes, MASKS),
    "objective[masked_lm].short_rows": Change("objective.short_rows=1", hidden_tokens, f"{MASKS} | objective.next_sentence=true"),
    "objective[ai_feedback].policy": Change("objective.policy=second", train_data, FED),
    "objective[ai_feedback].judge": Change("objective.judge=rescored", train_data, FED),
    "objective[ai_feedback].of": Change("objective.of={kind: reward}", shapes, FED),
    "objective[ai_feedback].completions": Change("objective.completions=3", train_data, FED),
    "objective[ai_feedback].temperature": Change("objective.temperature=3", train_data, FED),
    "objective[ai_feedback].max_new_tokens": Change("objective.max_new_tokens=2", train_data, FED),
    "objective[distillation].teacher": Change("objective.teacher=second", curve, TAUGHT),
    "objective[distillation].of": Change(MASKED_TAUGHT, base_terms, TAUGHT),
    "objective[distillation].of[causal_lm].documents": Change("objective.of.documents=joined", targets, TAUGHT),
    "objective[distillation].of[masked_lm].rate": Change("objective.of.rate=0.3", hidden_tokens, MASKED_TAUGHT),
    "objective[distillation].of[masked_lm].split": Change("objective.of.split=[0, 0, 1]", hidden_tokens, MASKED_TAUGHT),
    "objective[distillation].of[masked_lm].masking": Change("objective.of.masking=static", hidden_tokens, MASKED_TAUGHT),
    "objective[distillation].of[masked_lm].whole_words": Change(
        "objective.of.whole_words=true", hidden_tokens, f"{MASKED_TAUGHT} | {JOINED}"
    ),
    "objective[distillation].of[masked_lm].rarity": Change("objective.of.rarity=0.7", hidden_tokens, MASKED_TAUGHT),
    "objective[distillation].of[masked_lm].next_sentence": Change("objective.of.next_sentence=true", shapes, MASKED_TAUGHT),
    "objective[distillation].of[masked_lm].short_rows": Change(
        "objective.of.short_rows=1", hidden_tokens, f"{MASKED_TAUGHT} | objective.of.next_sentence=true"
    ),
    "objective[distillation].temperature": Change("objective.temperature=2", curve, TAUGHT),
    "objective[distillation].teacher_weight": Change("objective.teacher_weight=2", curve, TAUGHT),
    "objective[distillation].text_weight": Change("objective.text_weight=2", curve, TAUGHT),
    "objective[distillation].cosine_weight": Change("objective.cosine_weight=2", curve, TAUGHT),
    "objective[distillation].masked_only": Change("objective.masked_only=true", curve, MASKED_TAUGHT),
    "objective[distillation].copy_layers": Change("objective.copy_layers=[1, 0]", curve, TAUGHT),
    "objective[grpo].rules": Change("objective.rules=[{kind: contains, text: a}]", rewards, SAMPLED),
    **{f"objective[grpo].rules[{kind}].weight": Change(rewarded(kind, 3.0), rewards, f"{SAMPLED} | {rewarded(kind)}") for kind in _RULES},
    "objective[grpo].rules[regex].pattern": Change("objective.rules=[{kind: regex, pattern: s}]", rewards, SAMPLED),
    "objective[grpo].rules[contains].text": Change("objective.rules=[{kind: contains}]", rewards, SAMPLED),
    "objective[grpo].rules[python].function": Change(
        "objective.rules.0.function='rewarding.py:penalty'", rewards, f"{SAMPLED} | {rewarded('python')}"
    ),
    "objective[grpo].chat": Change("objective.chat=true", curve, f"model={{from: talks}} | tokenizer={{}} | {SAMPLED}"),
    "objective[grpo].prompts": Change("objective.prompts=8", rewards, SAMPLED),
    "objective[grpo].completions": Change("objective.completions=4", rewards, SAMPLED),
    "objective[grpo].inner_epochs": Change("objective.inner_epochs=2", order, SAMPLED),
    "objective[grpo].temperature": Change("objective.temperature=3", rewards, SAMPLED),
    "objective[grpo].max_new_tokens": Change("objective.max_new_tokens=2", rewards, SAMPLED),
    "objective[grpo].no_eos_reward": Change("objective.no_eos_reward=-3", rewards, SAMPLED),
    "objective[grpo].beta": Change("objective.beta=3", curve, f"{SAMPLED} | objective.prompts=1 | objective.completions=4"),
    "objective[grpo].kl_limit": Change("objective.kl_limit=5", limits, SAMPLED),
    "objective[grpo].kl_stop": Change("objective.kl_stop=5", limits, SAMPLED),
    "objective[grpo].clip_range": Change("objective.clip_range=1e-6", curve, SAMPLED),
    "objective[grpo].scale_rewards": Change("objective.scale_rewards=none", curve, SAMPLED),
    "objective[grpo].gold": Change("objective.gold=scored", golds, SAMPLED),
    "objective[grpo].reward": Change("objective.reward=scored", rewards, f"{SAMPLED} | tokenizer={{path: scored}}"),
    "objective[ppo].value": Change("objective.value=rescored", curve, PPO),
    "objective[ppo].value_lr": Change("objective.value_lr=0.1", curve, PPO),
    "objective[ppo].prompts": Change("objective.prompts=2", curve, PPO),
    "objective[ppo].completions": Change("objective.completions=4", curve, PPO),
    "objective[ppo].no_eos_reward": Change("objective.no_eos_reward=-3", rewards, PPO),
    "objective[ppo].beta": Change("objective.beta=3", curve, PPO),
    "objective[ppo].kl_target": Change("objective.kl_target=1 | objective.kl_horizon=8", curve, PPO),
    "objective[ppo].kl_horizon": Change("objective.kl_horizon=8", curve, f"{PPO} | objective.kl_target=1"),
    "objective[ppo].gamma": Change("objective.gamma=0.5", curve, PPO),
    "objective[ppo].gae_lambda": Change("objective.gae_lambda=0.1", curve, PPO),
    "objective[ppo].clip_range": Change("objective.clip_range=1e-6", curve, PPO),
    "objective[ppo].value_clip_range": Change("objective.value_clip_range=1e-6", curve, PPO),
    "objective[ppo].ptx_weight": Change("objective.ptx_weight=2", curve, MIXED),
    "objective[ppo].ptx_ratio": Change("objective.ptx_ratio=3", curve, MIXED),
    "data.pretraining": Change("data.pretraining=[{path: two.jsonl}]", curve, MIXED),
    "data.pretraining.path": Change("data.pretraining.0.path=two.jsonl", curve, MIXED),
    "data.pretraining.text": Change("data.pretraining.0.text=body", curve, MIXED),
    "data.pretraining.weight": Change(
        "data.pretraining.0.weight=3", curve, f"{MIXED} | data.pretraining=[{{path: one.jsonl}}, {{path: two.jsonl}}]"
    ),
    "objective[tagging].labels": Change("objective.labels=[no, yes, maybe]", shapes, TAGGED),
    "objective[multi_label].labels": Change("objective.labels=[no, yes, maybe]", shapes, SEVERAL),
    "objective[multi_label].delimiter": Change("objective.delimiter=e", shapes, SEVERAL),
    "objective[question_answering].unanswerable": Change("objective.unanswerable=true", evaluation, FOUND),
    "objective[question_answering].doc_stride": Change("objective.doc_stride=1", train_data, FOUND),
    "objective[question_answering].max_answer_tokens": Change("objective.max_answer_tokens=1", evaluation, FOUND),
    "objective[multiple_choice].lm_weight": Change("objective.lm_weight=1", curve, ASKED),
    "objective[multiple_choice].start": Change("objective.start=null", train_data, ASKED),
    "objective[multiple_choice].delimiter": Change("objective.delimiter=<x>", train_data, ASKED),
    "objective[multiple_choice].classify": Change("objective.classify=<x>", train_data, ASKED),
    "objective[classification].labels": Change("objective.labels=[no, yes, maybe]", shapes, LABELLED),
    "objective[classification].class_weights": Change("objective.class_weights=balanced", curve, LABELLED),
    "objective[classification].regression": Change(
        "objective.regression=true",
        shapes,
        f"{LABELLED} | data.train.0.columns={{label: value}} | data.validation.0.columns={{label: value}}",
    ),
    "optimizer": Change(MUON, weights),
    "optimizer[adamw].lr": Change("optimizer.lr=2e-2", weights),
    "optimizer[adamw].betas": Change("optimizer.betas=[0.5, 0.5]", weights),
    "optimizer[adamw].eps": Change("optimizer.eps=1e-2", weights),
    "optimizer[adamw].bias_correction": Change("optimizer.bias_correction=false", weights),
    "optimizer[adamw].weight_decay": Change("optimizer.weight_decay=0.5", weights),
    "optimizer[adamw].clip_norm": Change("optimizer.clip_norm=0.01", weights, "optimizer.eps=1e-2"),
    "optimizer[adamw].layer_decay": Change("optimizer.layer_decay=0.5", weights),
    "optimizer[adam].layer_decay": Change("optimizer.layer_decay=0.5", weights, ADAM),
    "optimizer[adafactor].layer_decay": Change("optimizer.layer_decay=0.5", weights, ADAFACTOR),
    "optimizer[adam].lr": Change("optimizer.lr=2e-2", weights, ADAM),
    "optimizer[adam].betas": Change("optimizer.betas=[0.5, 0.5]", weights, ADAM),
    "optimizer[adam].eps": Change("optimizer.eps=1e-2", weights, ADAM),
    "optimizer[adam].bias_correction": Change("optimizer.bias_correction=false", weights, ADAM),
    "optimizer[adam].clip_norm": Change("optimizer.clip_norm=0.01", weights, f"{ADAM} | optimizer.eps=1e-2"),
    "optimizer[adafactor].lr": Change("optimizer.lr=2e-2", weights, ADAFACTOR),
    "optimizer[adafactor].scale_parameter": Change("optimizer.scale_parameter=false", weights, ADAFACTOR),
    "optimizer[adafactor].min_scale": Change("optimizer.min_scale=0.5", weights, ADAFACTOR),
    "optimizer[adafactor].decay_rate": Change("optimizer.decay_rate=0.5", weights, ADAFACTOR),
    "optimizer[adafactor].clip_threshold": Change("optimizer.clip_threshold=0.5", weights, ADAFACTOR),
    "optimizer[adafactor].eps": Change("optimizer.eps=1e-2", weights, ADAFACTOR),
    "optimizer[adafactor].weight_decay": Change("optimizer.weight_decay=0.5", weights, ADAFACTOR),
    "optimizer[adafactor].clip_norm": Change("optimizer.clip_norm=0.01", weights, f"{ADAFACTOR} | optimizer.eps=1e-2"),
    "optimizer[muon].lr": Change("optimizer.lr=2e-2", weights, MUON),
    "optimizer[muon].adamw_lr": Change("optimizer.adamw_lr=2e-2", weights, MUON),
    "optimizer[muon].momentum": Change("optimizer.momentum=0.5", weights, MUON),
    "optimizer[muon].betas": Change("optimizer.betas=[0.5, 0.5]", weights, MUON),
    "optimizer[muon].eps": Change("optimizer.eps=1e-2", weights, MUON),
    "optimizer[muon].weight_decay": Change("optimizer.weight_decay=0.5", weights, MUON),
    "optimizer[muon].clip_norm": Change("optimizer.clip_norm=0.01", weights, f"{MUON} | optimizer.eps=1e-2"),
    "schedule.kind": Change("schedule.kind=linear", lr, "training.log_every=1"),
    "schedule.warmup_steps": Change("schedule.warmup_steps=2", lr, "training.log_every=1"),
    "schedule.warmup_tokens": Change("schedule.warmup_tokens=150", lr, "training.log_every=1"),
    "schedule.warmup_ratio": Change("schedule.warmup_ratio=0.5", lr, "training.log_every=1"),
    "schedule.flat_steps": Change("schedule.flat_steps=3", lr, "schedule.kind=inverse_sqrt | training.log_every=1"),
    "schedule.final_ratio": Change("schedule.final_ratio=0.5", lr),
    "schedule.decay_end": Change("schedule.decay_end=0.5", lr, "training.log_every=1"),
    "schedule.decay_ratio": Change("schedule.decay_ratio=0.8", lr, "schedule.kind=wsd | training.log_every=1"),
    "training.steps": Change("training.steps=5", steps),
    "training.epochs": Change("training.epochs=0.2 | training.steps=null", steps),
    "training.tokens": Change("training.tokens=130 | training.steps=null", steps),
    "training.batch_size": Change("training.batch_size=6", micro_batches),
    "training.batch_ramp.start": Change("training.batch_ramp.start=1", micro_batches, "training.batch_ramp={start: 2, tokens: 100}"),
    "training.batch_ramp.tokens": Change("training.batch_ramp.tokens=300", row_counts, "training.batch_ramp={start: 2, tokens: 100}"),
    "training.micro_batch_size": Change("training.micro_batch_size=2", micro_batches),
    "training.precision": Change("training.precision=bf16", precision),
    "training.ema_decay": Change("training.ema_decay=0.9", evaluation),
    "training.trial_rates": Change("training.trial_rates=[0.1]", lr, "optimizer.lr=1e-6 | training.steps=26"),
    "training.adapter.rank": Change("training.adapter.rank=3", shapes, ADAPTED),
    "training.adapter.alpha": Change("training.adapter.alpha=30", curve, ADAPTED),
    "training.adapter.dropout": Change("training.adapter.dropout=0.5", curve, ADAPTED),
    "training.adapter.targets": Change("training.adapter.targets=[k_proj]", shapes, ADAPTED),
    "training.adapter.merge": Change("training.adapter.merge=true", weight_files, ADAPTED),
    "training.frozen": Change("training.frozen=['embedding.*']", weights),
    "training.unfreeze_every": Change("training.unfreeze_every=2", weights),
    "training.patience": Change(
        "training.patience=1", evaluated_steps, "optimizer.lr=10 | checkpoint.every=1 | evaluation.every=1 | training.steps=12"
    ),
    "training.seed": Change("training.seed=2", order),
    "training.compile": Change("training.compile=true", compiled),
    "training.activation_checkpointing": Change("training.activation_checkpointing=true", forwards),
    "training.max_skipped_steps": Change("training.max_skipped_steps=2", guards),
    "training.loss_jump_sigmas": Change("training.loss_jump_sigmas=8", guards),
    "training.log_every": Change("training.log_every=2", logged_steps),
    "training.tensorboard": Change("training.tensorboard=true", tensorboard),
    "trackers": Change("trackers=[{kind: tensorboard}]", tensorboard),
    "checkpoint.every": Change("checkpoint.every=2", checkpoints),
    "checkpoint.keep": Change("checkpoint.keep=1", checkpoints, "checkpoint.every=1"),
    "evaluation.every": Change("evaluation.every=1", evaluated_steps),
    "evaluation.metric": Change("evaluation.metric=perplexity", judge),
    "evaluation.batch_size": Change("evaluation.batch_size=1", forwards),
    "evaluation.max_tokens": Change("evaluation.max_tokens=100", evaluation),
    "evaluation.precision": Change("evaluation.precision=bfloat16", scored),
    "evaluation.text_metrics": Change("evaluation.text_metrics=[chrf]", judged, f"{WRITTEN} | generation.max_new_tokens=2"),
    "evaluation.bleu_tokenize": Change("evaluation.bleu_tokenize=char", bleu_tokenizer, WRITTEN),
    "evaluation.bootstrap": Change("evaluation.bootstrap=7", judged),
    "generation.prompts": Change(WRITES, samples),
    "generation.max_new_tokens": Change("generation.max_new_tokens=3", samples, DRAWS),
    "generation.temperature": Change("generation.temperature=0", samples, DRAWS),
    "generation.top_k": Change("generation.top_k=2", samples, DRAWS),
    "generation.top_p": Change("generation.top_p=0.05", samples, DRAWS),
    "generation.min_p": Change("generation.min_p=0.9", samples, DRAWS),
    "generation.repetition_penalty": Change("generation.repetition_penalty=9", samples, DRAWS),
    "generation.no_repeat_ngram": Change("generation.no_repeat_ngram=1", samples, DRAWS),
    "generation.num_beams": Change("generation.num_beams=3", samples, DRAWS),
    "generation.length_penalty": Change("generation.length_penalty=-9", samples, BEAMS),
    "generation.length_law": Change("generation.length_law=gnmt", samples, BEAMS),
    "generation.early_stopping": Change("generation.early_stopping=full", samples, BEAMS),
    "generation.stop": Change("generation.stop=[a, e, o, t, s, ' ', '�']", samples, DRAWS),
    "generation.seed": Change("generation.seed=2", samples, DRAWS),
    "parallel.replicas": Change("parallel.replicas=1", mesh),
    "parallel.reshard": Change("parallel.reshard=false", mesh),
    "carbon.enabled": Change(METERED, meter),
    "carbon.country": Change("carbon.country=POL", meter, f"{METERED} | carbon.country=FRA"),
    "carbon.intensity_g_per_kwh": Change("carbon.intensity_g_per_kwh=7", meter, f"{METERED} | carbon.country=FRA"),
    "carbon.intensity_file": Change("carbon.intensity_file=grid.csv", meter, METERED),
    "carbon.pue": Change("carbon.pue=1.5", meter, METERED),
    "carbon.every_seconds": Change("carbon.every_seconds=60", meter, METERED),
    "carbon.budget_g": Change("carbon.budget_g=1000", budgets, METERED),
    "carbon.budget_kwh": Change("carbon.budget_kwh=1000", budgets, METERED),
    "carbon.budget_seconds": Change("carbon.budget_seconds=1000", budgets),
    "carbon.on_meter_failure": Change("carbon.on_meter_failure=stop", budgets, f"{METERED} | carbon.budget_g=1000"),
    "carbon.embodied_g_per_device_hour": Change("carbon.embodied_g_per_device_hour=20", embodied, EMBODIED),
    "carbon.embodied_source": Change("carbon.embodied_source=another", embodied, EMBODIED),
    "carbon.baseline_seconds": Change("carbon.baseline_seconds=0.5", idle, METERED),
}

# What no objective trains yet: two descriptions beside the recipe's, and what they must differ in once they are built.
MASKED, CLASSES = {"kind": "masked_lm", "tied": True}, {"kind": "classes", "count": 2, "pool": "last"}
BUILT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "model.head": ({"head": MASKED}, {"head": CLASSES}),
    "model.head[masked_lm].next_sentence": ({"head": MASKED}, {"head": MASKED | {"next_sentence": True}}),
    "model.head[classes].count": ({"head": CLASSES}, {"head": CLASSES | {"count": 3}}),
    "model.head[classes].pool": ({"head": CLASSES}, {"head": CLASSES | {"pool": "first"}}),
    "model.head[classes].dense": ({"head": CLASSES}, {"head": CLASSES | {"dense": "tanh"}}),
    "model.head[classes].bias": ({"head": CLASSES}, {"head": CLASSES | {"bias": True}}),
    "model.head[tags].count": ({"head": {"kind": "tags", "count": 2}}, {"head": {"kind": "tags", "count": 3}}),
    "model.head[masked_lm].dense_bias": ({"head": MASKED}, {"head": MASKED | {"dense_bias": False}}),
    "model.head[tags].dense": ({"head": {"kind": "tags", "count": 2}}, {"head": {"kind": "tags", "count": 2, "dense": "normed"}}),
    "model.head[spans].dense": ({"head": {"kind": "spans"}}, {"head": {"kind": "spans", "dense": "normed"}}),
    "model.head[none].pooler": ({"head": {"kind": "none"}}, {"head": {"kind": "none", "pooler": True}}),
    "model.dropout.head": ({"head": CLASSES}, {"head": CLASSES, "dropout": {"head": 0.5}}),
}

# Refused instead of read: a weight is how often an epoch reads a row, and an evaluation has no epochs; only its sets have names.
REFUSED = {"data.validation.weight": "data.validation.0.weight=2", "data.train.name": "data.train.0.name=dev"}


# Read by `tfkit evaluate` alone: a change of it, which must be seen in what a finished model says of the rows.
JUDGED = {
    "objective[few_shot].shots": "objective.shots=2",
    "objective[few_shot].seed": "objective.seed=2",
    "objective[few_shot].template": "objective.template='{context}: {answer}'",
    "objective[few_shot].separator": "objective.separator=' '",
    "objective[few_shot].choices": "objective.choices=[no, yes, maybe]",
    "objective[few_shot].normalize": "objective.normalize=unconditional",
}
_SHORT = "{path: labelled.jsonl, columns: {context: '{value}'}}"  # so that the examples of a prompt fit
ASKED_BY_PROMPT = ["objective={kind: few_shot, choices: [no, yes], shots: 1}", f"data={{train: [{_SHORT}], validation: [{_SHORT}]}}"]


# Changes nothing, but that another teacher is refused: tests/cli/test_pretrain_distillation.py.
PINNED = {"objective[distillation].teacher_sha256"}
PINNED |= {"objective[ppo].value_sha256", *(f"objective[{kind}].{name}_sha256" for kind in ("grpo", "ppo") for name in ("reward", "gold"))}
PINNED |= {"objective[ai_feedback].policy_sha256", "objective[ai_feedback].judge_sha256"}  # tests/alignment/test_ai_feedback.py
# Without it the rule is refused: tests/alignment/test_rewards.py.
PINNED |= {"objective[grpo].rules[python].allow_code"}
# One process shares its weights with none: tests/parallel/test_shared_weights.py.
PINNED |= {"parallel.shard"}
# Fields of one class, which the same lines read: a row of the other objective, or of the sources of the training, shows each at work.
SHARED = {
    f"objective[ppo].{name}"
    for name in ("rules", "reward", "gold", "chat", "inner_epochs", "temperature", "max_new_tokens", "kl_limit", "kl_stop")
}
SHARED |= {name.replace("grpo", "ppo") for name in (*TABLE, *PINNED) if name.startswith("objective[grpo].rules[")}
SHARED |= {f"objective[ai_feedback].of[reward].{name}" for name in ("every_token", "chat")}
SHARED |= {f"objective[ai_feedback].of[dpo].{name}" for name in ("beta", "label_smoothing", "chat")}
SHARED |= {f"data.pretraining.{name}" for name in SourceSection.model_fields if f"data.pretraining.{name}" not in TABLE}


def fields(record: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every field that can be changed: those of sections, unions themselves, but no `kind` that has one value only."""
    if record is ModelSection:
        yield f"{prefix}preset"
        yield from fields(ModelConfig, prefix)
        return
    for name, declared in record.model_fields.items():
        inner = list(dict.fromkeys(section_types(declared.annotation)))
        if name == "kind" and len(get_args(declared.annotation)) == 1:
            continue
        if not inner or len(inner) > 1 or "list" in str(declared.annotation):
            yield f"{prefix}{name}"
        for each in inner:
            which = f"[{tags(each)[0]}]" if len(inner) > 1 else ""
            yield from fields(each, f"{prefix}{name}{which}.")


# ------------------------------------------------------------------------------------------------------------- the machinery


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all runs are made: two sources with two columns, two data sets, a finished tokenizer."""
    folder = tmp_path_factory.mktemp("fields")
    random = np.random.default_rng(4)

    def text() -> str:
        return " ".join(random.choice(WORDS, random.integers(3, 20)))

    rows = {name: [{"text": text(), "body": text()} for _ in range(40)] for name in ("one", "two", "first", "second")}
    for name in ("one", "two"):
        write_rows(folder / f"{name}.jsonl", rows[name])
    (folder / "keyed.json").write_text(json.dumps({name: rows[name] for name in ("first", "second")}), encoding="utf-8")
    (folder / "splits").mkdir()
    for name, split in (("one", "train"), ("two", "valid"), ("first", "test")):
        write_rows(folder / "splits" / f"{split}.jsonl", rows[name])
    joined = [{"text": row["text"].replace(" ", "", 3)} for row in rows["one"]]
    write_rows(folder / "joined.jsonl", joined)
    labelled = [row | {"label": random.choice(["no", "yes"]), "value": int(random.integers(9))} for row in rows["one"]]
    write_rows(folder / "labelled.jsonl", labelled)
    questions = [
        {"question": row["body"][:9], "context": row["text"], "answers": {"text": [row["text"][2:9]], "answer_start": [2]}}
        for row in rows["one"]
    ]
    said = [
        {"role": role, "content": word} for role, word in zip(["user", "assistant"] * 2, ["the cat", "sat", "on", "a mat"], strict=True)
    ]
    write_rows(folder / "turns.jsonl", [{"messages": said} for _ in range(40)])
    write_rows(folder / "questions.jsonl", questions)
    answers = [*map(str, range(10)), *"abcdefghijklmnopqrstuvwxyz"]
    prompts = [{"prompt": f"{row['text'][:6]} ", "answer": answers} for row in rows["one"]]
    write_rows(folder / "prompts.jsonl", prompts)
    (folder / "rewarding.py").write_text("def reward(row, text):\n    return 1\n\n\ndef penalty(row, text):\n    return -1\n")
    table = "".join(f"{row['text']},{row['body']}\n" for row in ({"text": "text", "body": "body"}, *rows["one"]))
    (folder / "table.csv").write_text(table, encoding="utf-8")
    splits = {"train": datasets.Dataset.from_list(rows["one"][:25]), "other": datasets.Dataset.from_list(rows["two"][:25])}
    datasets.DatasetDict(splits).save_to_disk(str(folder / "saved"))
    (folder / "configs").mkdir()
    for name in ("first", "second"):
        write_rows(folder / "configs" / f"{name}.jsonl", rows[name])
    configs = [{"config_name": name, "data_files": f"{name}.jsonl", "default": name == "first"} for name in ("first", "second")]
    (folder / "configs" / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n", encoding="utf-8")
    hours = [f"{(datetime.now(UTC) + timedelta(hours=hour)).isoformat()},{70 + hour}\n" for hour in range(-1, 3)]
    (folder / "grid.csv").write_text("timestamp_utc,g_per_kwh\n" + "".join(hours), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def see(place: Path) -> Iterator[Callable[[str], Seen]]:
    """Makes the run of some words once, in this process; it is watched, not changed, but for what costs time alone."""
    known: dict[str, Seen] = {}
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    patch.setattr("os.fsync", lambda descriptor: None)
    patch.setattr("tfkit.engine.training_run.training_log.peak_flops", lambda device, dtype: 1e12)
    patch.setattr("tfkit.data.sources.stdlib._is_source", lambda path, root: path.parent.name in ("json", "email"))
    uncompiled = torch._dynamo.config.patch(disable=True)  # a compiled module then calls its plain self
    uncompiled.__enter__()
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    def run(words: str) -> Seen:
        if words not in known:
            given = tuple(word.strip() for word in words.split(" | ") if word.strip())
            known[words] = seen = Seen(place / f"run-{len(known)}", given)
            with pytest.MonkeyPatch.context() as watching:
                _watch(seen, watching)
                command = "finetune" if any(word.startswith("model={from") for word in given) else "pretrain"
                assert main([command, "recipe.yaml", "--run", str(seen.folder), "--threads", "1", *given]) == 0
        return known[words]

    run("training.steps=2")  # for a finished tokenizer, of other text
    machine_speed(torch.device("cpu"), torch.float32, 1)  # else the first forecast measures it, with forwards of blocks
    teachers = {
        "first": [],
        "second": ["training.seed=2"],
        "masked": [ENCODER, WORDPIECE, "objective={kind: masked_lm}"],
        "talks": CHAT.split(" | "),
        "scored": SCORED,
        "rescored": [*SCORED, "tokenizer={path: scored}", "training.seed=2"],
    }
    for name, given in teachers.items():
        assert main(["pretrain", "recipe.yaml", "--run", name, "--threads", "1", "training.steps=1", *given]) == 0
    assert main(["pretrain", "recipe.yaml", "--run", "other", "--threads", "1", "data.train.0.path=two.jsonl", "training.steps=1"]) == 0
    (place / "finished").mkdir()
    for file in (place / "other" / "checkpoints" / "step-000001").glob("*token*"):
        (place / "finished" / file.name).write_bytes(file.read_bytes())
    assert Tokenizer.from_file(str(place / "finished" / "tokenizer.json")).get_vocab_size() == 300
    yield run
    uncompiled.__exit__(None, None, None)
    patch.undo()
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


def _watch(seen: Seen, patch: pytest.MonkeyPatch) -> None:
    start, forward, launch, load = AssembledRun.train, Block.forward, SidecarProcess.start, datasets.load_dataset

    def run(self: AssembledRun) -> None:
        seen.run = self
        start(self)

    def block(self: Block, *arguments: Any) -> Any:
        seen.block_forwards += 1
        return forward(self, *arguments)

    def recording(spec: dict[str, Any], *others: Any) -> SidecarProcess:
        seen.metered.append(spec)
        return launch(spec, *others)

    def loaded(name: str, *arguments: Any, **options: Any) -> Any:
        seen.hub.append((name, arguments, options))
        return load(name, *arguments, **options)

    def measured(meter: Any, seconds: float, *others: Any) -> None:
        seen.idle.append(seconds)

    def no_process() -> Any:
        raise OSError("no process in these tests: what it does is the carbon room's matter")

    patch.setattr(AssembledRun, "train", run)
    patch.setattr(Block, "forward", block)
    patch.setattr(SidecarProcess, "start", recording)
    patch.setattr("tfkit.carbon.sidecar_process._spawn", no_process)
    patch.setattr("tfkit.engine.training_run.attempt._measure_idle", measured)
    patch.setattr(datasets, "load_dataset", loaded)


def test_every_field_has_a_row() -> None:
    found = list(fields(Recipe))
    assert len(found) == len(set(found))
    assert set(found) == TABLE.keys() | BUILT.keys() | REFUSED.keys() | JUDGED.keys() | PINNED | SHARED


@pytest.mark.sampled(20)
@pytest.mark.parametrize("name", TABLE)
def test_a_change_is_seen(name: str, see: Callable[[str], Seen]) -> None:
    change = TABLE[name]
    before, after = see(change.given), see(f"{change.given} | {change.words}")
    assert change.look(before) != change.look(after), f"{name} is read by nothing that {change.look.__name__} looks at"


@pytest.mark.parametrize("name", BUILT)
@torch.no_grad()
def test_a_change_of_what_is_not_trained_yet_is_seen_in_the_model(name: str) -> None:
    def look(changes: dict[str, Any]) -> tuple[dict[str, torch.Size], Any]:
        model = build(ModelConfig.model_validate(DESCRIPTION | changes), seed=1).train()
        torch.manual_seed(1)
        ids = torch.arange(24).reshape(2, 12)
        output = model(ids)
        read = None if changes["head"]["kind"] == "none" else output.logits.tolist()
        return {name: tensor.shape for name, tensor in model.state_dict().items()}, read

    before, after = BUILT[name]
    assert look(before) != look(after)


@pytest.mark.parametrize("name", JUDGED)
def test_a_change_of_what_only_judges_is_seen(name: str, see: Callable[[str], Seen], tmp_path: Path) -> None:
    run = see("").folder

    def said(*words: str) -> str:
        path = tmp_path / f"{len(words)}.jsonl"
        start = ["evaluate", "--from", str(run), "--predictions", str(path), "--threads", "1"]
        assert main([*start, *ASKED_BY_PROMPT, *words]) == 0
        return path.read_text(encoding="utf-8")

    assert said() != said(JUDGED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_would_read_is_refused(name: str, see: Callable[[str], Seen], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(see("").folder.parent / "recipe.yaml"), REFUSED[name]]) == 2
    assert "remove it" in capsys.readouterr().err


@pytest.mark.parametrize("look", [curve, weights, samples, evaluation, forwards, order, targets])
def test_what_is_looked_at_is_the_same_without_a_change(look: Callable[[Seen], Any], see: Callable[[str], Seen]) -> None:
    """Else the rows above would prove nothing."""
    assert look(see(DRAWS)) == look(see(f"{DRAWS} | training.seed=1"))
