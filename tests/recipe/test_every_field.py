"""No option without a reader: for every field of the recipe, a change of it and what it changes in a real run.

Each row makes two runs of the real command, which differ in the one field, and looks at something in which they must differ; and if the
first run is resumed with the change, it is refused, or comes too late (F39). A field without a row fails, as does a row without a field.
"""

import json
import re
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
from fake_trackers import Server, install
from schema_walk import inner_sections, walk
from tiny_files import read_json, read_rows, receipt, write_rows
from tiny_runs import raising, run_here
from tokenizers import Tokenizer

from tfkit.__main__ import main
from tfkit.carbon.meter import SidecarProcess
from tfkit.engine.planning.machine_speed import machine_speed
from tfkit.engine.training_run.assembled_run import AssembledRun
from tfkit.model.config import ModelConfig
from tfkit.model.stack import Block
from tfkit.model.transformer import build
from tfkit.recipe import RecipeText, model_config, open_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.sections import Recipe
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

    @property
    def command(self) -> list[str]:
        """The words that started it."""
        command = "finetune" if any(word.startswith("model={from") for word in self.words) else "pretrain"
        return [command, "recipe.yaml", "--run", str(self.folder), "--threads", "1", *self.words]

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in read_rows(self.folder / "metrics.jsonl") if kind in record]


# -------------------------------------------------------------------------------------------------------- what is looked at


def evaluation(seen: Seen) -> list[dict[str, float]]:
    return [record["evaluation"] for record in seen.records("evaluation")]


def checkpoints(seen: Seen) -> list[str]:
    return sorted(path.name for path in (seen.folder / "checkpoints").glob("step-*"))


def golds(seen: Seen) -> list[float]:
    """The scores of a gold model, of the responses in the steps and of the held-out prompts."""
    found = [record["gold"] for record in seen.records("gold")] + [one["gold"] for one in evaluation(seen) if "gold" in one]
    return [score for score in found if score != 0]


def card_languages(seen: Seen) -> str:
    """The languages in the front matter of the last checkpoint's card."""
    card = (seen.folder / "checkpoints" / checkpoints(seen)[-1] / "README.md").read_text(encoding="utf-8")
    return card.partition("\nlanguage:")[2].partition("\nmodel-index:")[0]


def batches(seen: Seen, *steps: int) -> list[Any]:
    return [batch for step in steps for batch in seen.run.components.loader.step(step)]


def tokenizer(seen: Seen) -> tuple[int, list[int]]:
    """Its size, and the ids of a text."""
    codec = seen.run.run.data.tokenizer
    return codec.size, codec.encode_texts(["the cat sat on zebras, The Cát"])[0]


def embodied(seen: Seen) -> Any:
    """The embodied emissions in the report in the form of SCI, and their source."""
    rate = sci(read_facts(seen.folder), full=False)
    return rate["embodied_g"] / rate["embodied_device_hours"], rate["embodied_source"]


def result(seen: Seen, name: str) -> dict[str, Any]:
    """The result of tfkit evaluate."""
    kept = seen.folder.with_name(f"{seen.folder.name}-{name}")
    assert main(["evaluate", "--from", str(seen.folder), "--run", str(kept), "--json"]) == 0
    return receipt(kept)["result"]


TRACKERS: dict[str, Server] = {}  # the fakes

# What a run shows, by name.
LOOKS: dict[str, Callable[[Seen], Any]] = {
    # The loss and the gradient's norm: of the model, the data, and all that moves the weights.
    "curve": lambda seen: [(record["loss"], record["grad_norm"]) for record in seen.records("loss")],
    # The weights at the end.
    "weights": lambda seen: [float(parameter.detach().double().sum()) for parameter in seen.run.components.stepper.weights.master.values()],
    "lr": lambda seen: [record["lr"] for record in seen.records("loss")],
    # The names and shapes of the parameters.
    "shapes": lambda seen: {name: tuple(parameter.shape) for name, parameter in seen.run.components.stepper.weights.master.items()},
    "evaluated_steps": lambda seen: [record["step"] for record in seen.records("evaluation")],
    "logged_steps": lambda seen: [record["step"] for record in seen.records("loss")],
    # The texts that the model wrote at the last evaluation.
    "samples": lambda seen: [record["samples"] for record in seen.records("samples")][-1:],
    # The metric by which the best checkpoint was chosen.
    "judge": lambda seen: read_json(seen.folder / "checkpoints" / "best.json")["metric"],
    # The files of the model in the last checkpoint.
    "weight_files": lambda seen: sorted(path.name for path in (seen.folder / "checkpoints" / checkpoints(seen)[-1]).glob("*.safetensors")),
    "steps": lambda seen: seen.run.components.plan.steps,
    # The steps that the loop may skip, and its limit for a jump of the loss; tests/faults/test_health.py shows the effect.
    "guards": lambda seen: (seen.run.components.plan.max_skipped_steps, seen.run.components.plan.loss_jump_sigmas),
    # How its ranks would divide a training; tests/parallel/test_shared_weights.py shows it at work.
    "mesh": lambda seen: seen.run.run.recipe.parallel,
    # The rewards of sampled responses, in the steps and of the held-out prompts.
    "rewards": lambda seen: [record["reward"] for record in seen.records("reward")] + [one["reward"] for one in evaluation(seen)],
    "limit": lambda seen: seen.run.run.recipe.data.max_lost,  # of rows that may be lost; tests/cli/test_preflight.py shows it at work
    "micro_batches": lambda seen: [len(batch.input_ids) for batch in seen.run.components.loader.step(0)],
    "row_counts": lambda seen: [len(seen.run.components.loader.numbers(step)) for step in range(12)],  # the rows of each step
    # The rows of the first step, and how many an epoch has.
    "order": lambda seen: [len(seen.run.components.loader.rows), *map(int, seen.run.components.loader.numbers(0))],
    "base_terms": lambda seen: list(seen.run.components.stepper.objective.base.terms),  # the objective of a student besides its teacher
    "train_data": lambda seen: seen.run.run.data.fingerprints()["train"],
    "validation_data": lambda seen: seen.run.run.data.fingerprints()["validation"],
    "precision": lambda seen: seen.run.components.stepper.weights.dtype,
    "forwards": lambda seen: seen.block_forwards,  # how often a block was computed
    "compiled": lambda seen: seen.run.components.stepper.model.decoder._compiled_call_impl is not None,
    "tensorboard": lambda seen: any((seen.folder / "tensorboard").glob("events*")),
    "tracked": lambda seen: [
        (kind, project) for kind, server in TRACKERS.items() for project, run in server.points if receipt(seen.folder)["run_id"] in run
    ],
    # The arguments of the meter's process.
    "meter": lambda seen: [{name: spec[name] for name in ("place", "pue", "every_seconds")} for spec in seen.metered],
    "idle": lambda seen: seen.idle,  # the seconds for which the idle machine is measured
    "hub": lambda seen: seen.hub,  # the arguments of the calls of the `datasets` library
    # The loss that `tfkit evaluate` gives, by the recipe that lies in the run folder.
    "scored": lambda seen: float(result(seen, "scored")["metrics"]["loss"]),
    **{look.__name__: look for look in (evaluation, checkpoints, golds, card_languages, tokenizer, embodied)},
    # Of the distance from the reference; tests/alignment shows both at work.
    "limits": lambda seen: (seen.run.run.recipe.objective.kl_limit, seen.run.run.recipe.objective.kl_stop),
    # What has a target in the first steps, and whether documents are kept apart.
    "targets": lambda seen: [(int((one.labels >= 0).sum()), one.document_ids is not None) for one in batches(seen, 0, 1, 2, 3)],
    # The inputs and targets of a masked language model in the first step, and in one of the second epoch.
    "hidden_tokens": lambda seen: [(batch.input_ids.tolist(), batch.labels.tolist()) for batch in batches(seen, 0, 20)],
    # The limits of the run, and what happens where they cannot be counted.
    "budgets": lambda seen: (budget := seen.run.run.budget) and (budget.limits, budget._carbon.on_meter_failure),
    # Which metrics an evaluation gives, and the ends of their intervals.
    "judged": lambda seen: [sorted((found := result(seen, "judged"))["metrics"]), found["intervals"]],
    # As the result has it; tests/cli/test_evaluate_answers.py shows it at work.
    "bleu_tokenizer": lambda seen: result(seen, "judged")["bleu_tokenize"],
}


# ---------------------------------------------------------------------------------------------------------------- the table


class Change(NamedTuple):
    """`words` change the field; `look` is the name of what shows it; `given` is said in both runs."""

    words: str
    look: str
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
DESCRIPTION: dict[str, Any] = {"vocab_size": 30, "context_length": 16, "dim": 16, "num_heads": 2, "encoder_layers": 1}
DESCRIPTION |= {"position": {"kind": "learned"}, "norm": {"kind": "layer"}, "mlp": {"activation": "gelu"}, "init": {"std": 0.3}}
DRAWS = f"{WRITES} | generation.max_new_tokens=24"
BEAMS = f"{DRAWS} | generation.num_beams=6 | generation.stop=[i, s]"
SPLITS = "data.train=[{path: splits}] | data.validation=null"
HUB = "data.train=[{hub: saved}]"
CONFIGS = "data.train=[{hub: configs}]"
STREAMED = "data.train=[{hub: saved, streamed: true}]"
METERED = "carbon.enabled=true"
EMBODIED = "carbon.embodied_g_per_device_hour=10 | carbon.embodied_source=the maker"
TAUGHT = "tokenizer={path: first} | objective={kind: distillation, teacher: first, of: {kind: causal_lm}}"
ENCODER = "model={preset: bert-tiny, encoder_layers: 2, dim: 16, num_heads: 2, context_length: 16, init: {std: 0.2}}"
MASKS = f"{ENCODER} | {WORDPIECE} | objective={{kind: masked_lm}}"
DISENTANGLED = f"{MASKS} | model.position={{kind: disentangled, buckets: 8, max_distance: 14}}"
JOINED = "data.train.0.path=joined.jsonl"  # words of several pieces
MASKED_TAUGHT = f"{ENCODER} | tokenizer={{path: masked}} | objective={{kind: distillation, teacher: masked, of: {{kind: masked_lm}}}}"
LABELLED = "objective={kind: classification} | data.train=[{path: labelled.jsonl}] | data.validation=[{path: labelled.jsonl}]"
VALUED = f"{LABELLED} | data.train.0.columns={{label: value}} | data.validation.0.columns={{label: value}}"
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
SCORED = ["objective={kind: classification, regression: true}", "data.validation=null"]
SCORED += ["data.train=[{path: labelled.jsonl, columns: {label: value}}]"]


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
# The changes that `look` sees, by what both runs are given. The first word of a change names its field.
CHANGES = {
    ("shapes", ""): "model.vocab_size=310 ; model.context_length=12 ; model.decoder_layers=3 ; model.dim=18 ; model.hidden_dim=40 ; "
    "model.num_kv_heads=1 ; model.head_dim=6 ; model.position.offset=2 ; model.embedding.norm=true ; model.embedding.segments=2 ; "
    "model.norm.placement=post ; model.norm.first=false ; model.norm.bias=false ; model.attention.qk_norm=head ; "
    "model.attention.qkv_bias=false ; model.attention.out_bias=false ; model.mlp.bias=false ; model.head.tied=false ; "
    "model.head.bias=true ; model.head.choices=true",
    ("shapes", MASKS): "model.encoder_layers=3 ; model.embedding.dim=12 ; objective.next_sentence=true",
    ("curve", ""): "model.num_heads=4 ; model.embedding.scale=true ; model.norm.eps=0.1 ; model.attention.scale=2 ; "
    "model.attention.softcap=0.1 ; model.attention.windows=[3] ; model.mlp.activation=relu ; model.head.scale=0.5 ; "
    "model.head.softcap=0.5 ; model.dropout.embedding=0.3 ; model.dropout.attention=0.3 ; model.dropout.residual=0.3 ; "
    "model.dropout.hidden=0.3 ; model.dropout.final=0.3 ; model.init.scheme=fan_in ; model.init.std=0.1 ; "
    "model.init.residual_scaling=false",
    ("curve", ROTARY): "model.position.theta=3 ; model.position.layers=[true,false] ; model.position.fraction=0.5 ; "
    "model.position.scaling={kind: linear, factor: 4}",
    ("curve", f"{ROTARY} | model.attention.windows=[3]"): "model.position.local_theta=3",
    ("curve", LINEAR): "model.position.scaling.factor=8",
    ("curve", YARN): "model.position.scaling.factor=8 ; model.position.scaling.beta_fast=1.5 ; model.position.scaling.beta_slow=0.1 ; "
    "model.position.scaling.attention_factor=2 ; model.position.scaling.original_context_length=12",
    ("curve", SCALED): "model.position.scaling.factor=8 ; model.position.scaling.low_freq_factor=2 ; "
    "model.position.scaling.high_freq_factor=8 ; model.position.scaling.original_context_length=4",
    ("curve", LONGROPE): "model.position.scaling.short_factors=[9,1,1,1] ; model.position.scaling.long_factors=[9,1,1,1] ; "
    "model.position.scaling.attention_factor=2 ; model.position.scaling.original_context_length=4",
    ("shapes", BESIDE): "model.position.relative.buckets=16",
    ("curve", BESIDE): "model.position.relative.max_distance=10",
    ("shapes", DISENTANGLED): "model.position.buckets=16",
    ("curve", DISENTANGLED): "model.position.max_distance=9",
    ("shapes", RELATIVE): "model.position.buckets=16",
    ("curve", RELATIVE): "model.position.max_distance=10",
    ("curve", "model.position={kind: sinusoidal}"): "model.position.layout=interleaved",
    ("shapes", RMS): "model.norm.first=false ; model.norm.placement=sandwich",
    ("curve", RMS): "model.norm.eps=0.1",
    ("weights", RMS): "model.norm.unit_offset=true",
    ("shapes", "model.hidden_dim=40"): "model.mlp.gated=true",
    ("shapes", SPARSE): "model.mlp.experts.count=4 ; model.mlp.experts.hidden_dim=8 ; model.mlp.experts.layers=[true,false]",
    ("curve", SPARSE): "model.mlp.experts.active=1 ; model.mlp.experts.normalized=false ; model.routing.balance=1 ; model.routing.z_loss=1",
    ("tokenizer", ""): "tokenizer.kind=wordpiece ; tokenizer.variant=smollm2 ; tokenizer.vocab_size=290 ; "
    "tokenizer.special_tokens=['<x>'] ; tokenizer.sample_bytes=300 ; tokenizer.add_bos=false",
    ("tokenizer", WORDPIECE): "tokenizer.lowercase=false ; tokenizer.strip_accents=false",
    ("order", ""): "data.train.0.weight=2 ; data.sequence_length=8 ; training.seed=2",
    ("order", LABELLED): "data.length_groups=false",
    ("card_languages", ""): "data.language=[en, de]",
    ("limit", LABELLED): "data.max_lost=0.5",
    ("curve", DPO): "objective.beta=1 ; objective.label_smoothing=0.2",
    ("curve", f"{TALKED} | objective={{kind: dpo}}"): "objective.chat=true",
    ("curve", DPO.replace("dpo", "reward")): "objective.every_token=true",
    ("curve", f"{TALKED} | objective={{kind: reward}}"): "objective.chat=true",
    ("curve", SPANS): "objective.rate=0.3 ; objective.mean_span=3 ; objective.masking=static",
    ("curve", WRITTEN): "objective.label_smoothing=0.1",
    ("curve", CHAT): "objective.format=mistral ; objective.system=Rhyme.",
    ("order", CHAT): "objective.pack=true",
    ("curve", TURNS): "objective.train_on=last",
    ("targets", ""): "objective.documents=joined",
    ("hidden_tokens", MASKS): "objective.rate=0.3 ; objective.split=[0, 0, 1] ; objective.masking=static ; objective.rarity=0.7",
    ("hidden_tokens", f"{MASKS} | tokenizer={{path: masked}} | {JOINED}"): "objective.whole_words=true",
    ("hidden_tokens", f"{MASKS} | objective.next_sentence=true"): "objective.short_rows=1",
    ("train_data", FED): "objective.policy=second ; objective.judge=rescored ; objective.completions=3 ; objective.temperature=3 ; "
    "objective.max_new_tokens=2",
    ("shapes", FED): "objective.of={kind: reward}",
    ("curve", TAUGHT): "objective.teacher=second ; objective.temperature=2 ; objective.teacher_weight=2 ; objective.text_weight=2 ; "
    "objective.cosine_weight=2 ; objective.copy_layers=[1, 0]",
    ("targets", TAUGHT): "objective.of.documents=joined",
    ("hidden_tokens", MASKED_TAUGHT): "objective.of.rate=0.3 ; objective.of.split=[0, 0, 1] ; objective.of.masking=static ; "
    "objective.of.rarity=0.7",
    ("hidden_tokens", f"{MASKED_TAUGHT} | {JOINED}"): "objective.of.whole_words=true",
    ("shapes", MASKED_TAUGHT): "objective.of.next_sentence=true",
    ("hidden_tokens", f"{MASKED_TAUGHT} | objective.of.next_sentence=true"): "objective.of.short_rows=1",
    ("curve", MASKED_TAUGHT): "objective.masked_only=true",
    ("rewards", SAMPLED): "objective.rules=[{kind: contains, text: a}] ; objective.prompts=8 ; objective.completions=4 ; "
    "objective.temperature=3 ; objective.max_new_tokens=2 ; objective.no_eos_reward=-3",
    ("curve", f"model={{from: talks}} | tokenizer={{}} | {SAMPLED}"): "objective.chat=true",
    ("order", SAMPLED): "objective.inner_epochs=2",
    ("curve", f"{SAMPLED} | objective.prompts=1 | objective.completions=4"): "objective.beta=3",
    ("limits", SAMPLED): "objective.kl_limit=5 ; objective.kl_stop=5",
    ("curve", SAMPLED): "objective.clip_range=1e-6 ; objective.scale_rewards=none",
    ("golds", SAMPLED): "objective.gold=scored",
    ("rewards", f"{SAMPLED} | tokenizer={{path: scored}}"): "objective.reward=scored",
    ("curve", PPO): "objective.value=rescored ; objective.value_lr=0.1 ; objective.prompts=2 ; objective.completions=4 ; "
    "objective.beta=3 ; objective.kl_target=1 | objective.kl_horizon=8 ; objective.gamma=0.5 ; objective.gae_lambda=0.1 ; "
    "objective.clip_range=1e-6 ; objective.value_clip_range=1e-6",
    ("rewards", PPO): "objective.no_eos_reward=-3",
    ("curve", f"{PPO} | objective.kl_target=1"): "objective.kl_horizon=8",
    ("curve", MIXED): "objective.ptx_weight=2 ; objective.ptx_ratio=3 ; data.pretraining=[{path: two.jsonl}] ; "
    "data.pretraining.0.path=two.jsonl ; data.pretraining.0.text=body",
    ("curve", f"{MIXED} | data.pretraining=[{{path: one.jsonl}}, {{path: two.jsonl}}]"): "data.pretraining.0.weight=3",
    ("shapes", TAGGED): "objective.labels=[no, yes, maybe]",
    ("shapes", SEVERAL): "objective.labels=[no, yes, maybe] ; objective.delimiter=e",
    ("evaluation", FOUND): "objective.unanswerable=true ; objective.max_answer_tokens=1",
    ("train_data", FOUND): "objective.doc_stride=1",
    ("curve", ASKED): "objective.lm_weight=1",
    ("train_data", ASKED): "objective.start=null ; objective.delimiter=<x> ; objective.classify=<x>",
    ("shapes", LABELLED): "objective.labels=[no, yes, maybe]",
    ("curve", LABELLED): "objective.class_weights=balanced",
    ("shapes", VALUED): "objective.regression=true",
    ("weights", ""): "optimizer.lr=2e-2 ; optimizer.betas=[0.5, 0.5] ; optimizer.eps=1e-2 ; optimizer.bias_correction=false ; "
    "optimizer.weight_decay=0.5 ; optimizer.layer_decay=0.5 ; training.frozen=['embedding.*'] ; training.unfreeze_every=2",
    ("weights", "optimizer.eps=1e-2"): "optimizer.clip_norm=0.01",
    ("weights", ADAM): "optimizer.layer_decay=0.5 ; optimizer.lr=2e-2 ; optimizer.betas=[0.5, 0.5] ; optimizer.eps=1e-2 ; "
    "optimizer.bias_correction=false",
    ("weights", ADAFACTOR): "optimizer.layer_decay=0.5 ; optimizer.lr=2e-2 ; optimizer.scale_parameter=false ; optimizer.min_scale=0.5 ; "
    "optimizer.decay_rate=0.5 ; optimizer.clip_threshold=0.5 ; optimizer.eps=1e-2 ; optimizer.weight_decay=0.5",
    ("weights", f"{ADAM} | optimizer.eps=1e-2"): "optimizer.clip_norm=0.01",
    ("weights", f"{ADAFACTOR} | optimizer.eps=1e-2"): "optimizer.clip_norm=0.01",
    ("weights", MUON): "optimizer.lr=2e-2 ; optimizer.adamw_lr=2e-2 ; optimizer.momentum=0.5 ; optimizer.betas=[0.5, 0.5] ; "
    "optimizer.eps=1e-2 ; optimizer.weight_decay=0.5",
    ("weights", f"{MUON} | optimizer.eps=1e-2"): "optimizer.clip_norm=0.01",
    ("lr", "training.log_every=1"): "schedule.kind=linear ; schedule.warmup_steps=2 ; schedule.warmup_tokens=150 ; "
    "schedule.warmup_ratio=0.5 ; schedule.decay_end=0.5",
    ("lr", "schedule.kind=inverse_sqrt | training.log_every=1"): "schedule.flat_steps=3",
    ("lr", ""): "schedule.final_ratio=0.5",
    ("lr", "schedule.kind=wsd | training.log_every=1"): "schedule.decay_ratio=0.8",
    ("steps", ""): "training.steps=5 ; training.epochs=0.2 | training.steps=null ; training.tokens=130 | training.steps=null",
    ("micro_batches", ""): "training.batch_size=6 ; training.micro_batch_size=2",
    ("micro_batches", "training.batch_ramp={start: 2, tokens: 100}"): "training.batch_ramp.start=1",
    ("row_counts", "training.batch_ramp={start: 2, tokens: 100}"): "training.batch_ramp.tokens=300",
    ("precision", ""): "training.precision=bf16",
    ("evaluation", ""): "training.ema_decay=0.9 ; evaluation.max_tokens=100",
    ("lr", "optimizer.lr=1e-6 | training.steps=26"): "training.trial_rates=[0.1]",
    ("shapes", ADAPTED): "training.adapter.rank=3 ; training.adapter.targets=[k_proj]",
    ("curve", ADAPTED): "training.adapter.alpha=30 ; training.adapter.dropout=0.5",
    ("weight_files", ADAPTED): "training.adapter.merge=true",
    ("evaluated_steps", "optimizer.lr=10 | checkpoint.every=1 | evaluation.every=1 | training.steps=12"): "training.patience=1",
    ("compiled", ""): "training.compile=true",
    ("forwards", ""): "training.activation_checkpointing=true ; evaluation.batch_size=1",
    ("guards", ""): "training.max_skipped_steps=2 ; training.loss_jump_sigmas=8",
    ("logged_steps", ""): "training.log_every=2",
    ("tensorboard", ""): "training.tensorboard=true ; trackers=[{kind: tensorboard}]",
    ("tracked", "trackers=[{kind: mlflow}]"): "trackers.0.kind=wandb",
    ("tracked", "trackers=[{kind: wandb}]"): "trackers.0.project=other",
    ("checkpoints", ""): "checkpoint.every=2",
    ("checkpoints", "checkpoint.every=1"): "checkpoint.keep=1",
    ("evaluated_steps", ""): "evaluation.every=1",
    ("judge", ""): "evaluation.metric=perplexity",
    ("scored", ""): "evaluation.precision=bfloat16",
    ("judged", f"{WRITTEN} | generation.max_new_tokens=2"): "evaluation.text_metrics=[chrf]",
    ("bleu_tokenizer", WRITTEN): "evaluation.bleu_tokenize=char",
    ("judged", ""): "evaluation.bootstrap=7",
    ("samples", DRAWS): "generation.max_new_tokens=3 ; generation.temperature=0 ; generation.top_k=2 ; generation.top_p=0.05 ; "
    "generation.min_p=0.9 ; generation.repetition_penalty=9 ; generation.no_repeat_ngram=1 ; generation.num_beams=3 ; "
    "generation.stop=[a, e, o, t, s, ' ', '�'] ; generation.seed=2",
    ("samples", BEAMS): "generation.length_penalty=-9 ; generation.length_law=gnmt ; generation.early_stopping=full",
    ("mesh", ""): "parallel.replicas=1 ; parallel.reshard=false",
    ("meter", f"{METERED} | carbon.country=FRA"): "carbon.country=POL ; carbon.intensity_g_per_kwh=7",
    ("meter", METERED): "carbon.intensity_file=grid.csv ; carbon.pue=1.5 ; carbon.every_seconds=60",
    ("budgets", METERED): "carbon.budget_g=1000 ; carbon.budget_kwh=1000",
    ("budgets", ""): "carbon.budget_seconds=1000",
    ("budgets", f"{METERED} | carbon.budget_g=1000"): "carbon.on_meter_failure=stop",
    ("embodied", EMBODIED): "carbon.embodied_g_per_device_hour=20 ; carbon.embodied_source=another",
    ("idle", METERED): "carbon.baseline_seconds=0.5",
    ("train_data", ""): "data.train=[{path: two.jsonl}] ; data.rows=3 ; data.on_bad_row=skip",
    ("train_data", SPLITS): "data.split_by=row",
    ("train_data", NAMED): "data.train.0.class_names=[a, b, c, d, e, f, g, h, i]",
    ("validation_data", ""): "data.validation=0.3",
    ("validation_data", NAMED): "data.validation.0.class_names=[a, b, c, d, e, f, g, h, i]",
}
SOURCES = {  # those of a source of training, and of one of validation
    "": "data.train.0.path=joined.jsonl ; data.train.0.format=text ; data.train.0.text=body ; data.train.0.columns={text: body}",
    "data.train=[{path: splits}]": "data.train.0.files=test",
    "data.train=[{path: table.csv}]": "data.train.0.header=[body, text]",
    "data.train=[{path: keyed.json, field: first}]": "data.train.0.field=second",
    "data.train=[{path: labelled.jsonl, text: other, beside: {other: one.jsonl}}]": "data.train.0.beside={other: two.jsonl}",
    CONFIGS: "data.train.0.config=second ; data.train.0.revision=v2",
    HUB: "data.train.0.split=other ; data.train.0.streamed=true",
    STREAMED: "data.train.0.rows=9",
}
ROWS = [Change(words, look, given) for (look, given), changes in CHANGES.items() for words in changes.split(" ; ")]
ROWS += [
    Change(words.replace("train", part), "hub" if "revision" in words else look, given.replace("train", part))
    for part, look in (("train", "train_data"), ("validation", "validation_data"))
    for given, changes in SOURCES.items()
    for words in changes.split(" ; ")
]
# Changes whose first word does not name their field.
WHOLE = {
    "model.preset": Change(
        "model={preset: llama-7b, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 16, hidden_dim: 32}", "shapes"
    ),
    "model.head[masked_lm].tied": Change("model.head={kind: masked_lm, tied: false, next_sentence: false}", "shapes", MASKS),
    "model.position": Change(ROTARY, "shapes"),
    "model.norm": Change("model.norm.kind=rms", "shapes"),
    "tokenizer.path": Change("tokenizer={path: finished}", "tokenizer"),
    "data.train.stdlib": Change("data.train=[{stdlib: true}]", "train_data", "tokenizer={path: finished}"),
    "data.train.hub": Change(HUB, "train_data"),
    "data.validation.stdlib": Change("data.validation=[{stdlib: true}]", "validation_data"),
    "data.validation.hub": Change(HUB.replace("train", "validation"), "validation_data"),
    "data.validation.name": Change("data.validation=[{path: two.jsonl}, {path: one.jsonl, name: dev}]", "evaluation"),
    "objective": Change(LABELLED, "shapes"),
    "objective[distillation].of": Change(MASKED_TAUGHT, "base_terms", TAUGHT),
    **{f"objective[grpo].rules[{kind}].weight": Change(rewarded(kind, 3.0), "rewards", f"{SAMPLED} | {rewarded(kind)}") for kind in _RULES},
    "objective[grpo].rules[regex].pattern": Change("objective.rules=[{kind: regex, pattern: s}]", "rewards", SAMPLED),
    "objective[grpo].rules[contains].text": Change("objective.rules=[{kind: contains}]", "rewards", SAMPLED),
    "objective[grpo].rules[python].function": Change(
        "objective.rules.0.function='rewarding.py:penalty'", "rewards", f"{SAMPLED} | {rewarded('python')}"
    ),
    "optimizer": Change(MUON, "weights"),
    "generation.prompts": Change(WRITES, "samples"),
    "carbon.enabled": Change(METERED, "meter"),
}
TABLE = [*ROWS, *WHOLE.values()]

# What no objective trains yet: heads beside the recipe's, and their changes, by which the built models must differ.
HEADS: dict[str, dict[str, Any]] = {"masked_lm": {"tied": True}, "classes": {"count": 2, "pool": "last"}, "tags": {"count": 2}}
HEAD_CHANGES = {
    "masked_lm": {"next_sentence": True, "dense_bias": False},
    "classes": {"count": 3, "pool": "first", "dense": "tanh", "bias": True},
    "tags": {"count": 3, "dense": "normed"},
    "spans": {"dense": "normed"},
    "none": {"pooler": True},
}
BUILT = {
    f"model.head[{kind}].{name}": ({"head": head}, {"head": head | {name: value}})
    for kind, changes in HEAD_CHANGES.items()
    for head in [{"kind": kind} | HEADS.get(kind, {})]
    for name, value in changes.items()
}
CLASSES = BUILT["model.head[classes].count"][0]
BUILT |= {
    "model.head": (BUILT["model.head[masked_lm].dense_bias"][0], CLASSES),
    "model.dropout.head": (CLASSES, CLASSES | {"dropout": {"head": 0.5}}),
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
_SAMPLING = ("rules", "reward", "gold", "chat", "inner_epochs", "temperature", "max_new_tokens", "kl_limit", "kl_stop")
SHARED = {f"objective[ppo].{name}" for name in _SAMPLING}
SHARED |= {name.replace("grpo", "ppo") for name in (*WHOLE, *PINNED) if name.startswith("objective[grpo].rules[")}
SHARED |= {f"objective[ai_feedback].of[reward].{name}" for name in ("every_token", "chat")}
SHARED |= {f"objective[ai_feedback].of[dpo].{name}" for name in ("beta", "label_smoothing", "chat")}
SHARED |= {f"data.pretraining.{name}" for name in SourceSection.model_fields if name not in ("path", "text", "weight")}


def fields() -> Iterator[str]:
    """Every field that can be changed: those of sections, unions themselves, but no `kind` that has one value only."""
    for path, record, name in walk(Recipe):
        annotation, inner = record.model_fields[name].annotation, inner_sections(record, name)
        if (len(inner) != 1 or "list" in str(annotation)) and not (name == "kind" and len(get_args(annotation)) == 1):
            yield path


def field_of(change: Change, source: RecipeText) -> str:
    """Return the field that the first word of a change of the recipe names, with the kinds of the unions on the way, as `fields` has it."""
    recipe = source.read(parse_overrides([*split(change.given), *split(change.words)]))
    parent: Any = recipe
    value: Any = recipe
    names: list[str] = []
    for step in change.words.partition("=")[0].split("."):
        if step.isdigit():
            value = value[int(step)]
            continue
        if names and len(inner_sections(type(parent), names[-1])) > 1:
            names[-1] += f"[{value.kind}]"
        names.append(step)
        parent = value
        value = model_config(recipe.model, 300) if value is recipe and step == "model" and not recipe.model.start else getattr(value, step)
    return ".".join(names)


def split(words: str) -> tuple[str, ...]:
    """Return the words of a change."""
    return tuple(word.strip() for word in words.split(" | ") if word.strip())


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
    write_rows(folder / "joined.jsonl", [{"text": row["text"].replace(" ", "", 3)} for row in rows["one"]])
    labelled = [row | {"label": random.choice(["no", "yes"]), "value": int(random.integers(9))} for row in rows["one"]]
    write_rows(folder / "labelled.jsonl", labelled)
    asked = [
        {"question": row["body"][:9], "context": row["text"], "answers": {"text": [row["text"][2:9]], "answer_start": [2]}}
        for row in rows["one"]
    ]
    write_rows(folder / "questions.jsonl", asked)
    said = zip(["user", "assistant"] * 2, ["the cat", "sat", "on", "a mat"], strict=True)
    write_rows(folder / "turns.jsonl", [{"messages": [{"role": role, "content": word} for role, word in said]}] * 40)
    answers = [*map(str, range(10)), *"abcdefghijklmnopqrstuvwxyz"]
    write_rows(folder / "prompts.jsonl", [{"prompt": f"{row['text'][:6]} ", "answer": answers} for row in rows["one"][:16]])
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
    TRACKERS.update({kind: install(kind, patch) for kind in ("wandb", "mlflow")})
    patch.setattr("tfkit.engine.training_run.training_log.peak_flops", lambda device, dtype: 1e12)
    patch.setattr("tfkit.data.sources.stdlib._is_source", lambda path, root: path.parent.name in ("json", "email"))
    uncompiled = torch._dynamo.config.patch(disable=True)  # a compiled module then calls its plain self
    uncompiled.__enter__()
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    def run(words: str) -> Seen:
        if words not in known:
            known[words] = seen = Seen(place / f"run-{len(known)}", split(words))
            with pytest.MonkeyPatch.context() as watching:
                _watch(seen, watching)
                assert main(seen.command) == 0
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

    def block(self: Block, *arguments: Any) -> Any:
        seen.block_forwards += 1
        return forward(self, *arguments)

    def loaded(name: str, *arguments: Any, **options: Any) -> Any:
        seen.hub.append((name, arguments, options))
        return load(name, *arguments, **options)

    patch.setattr(AssembledRun, "train", lambda run: setattr(seen, "run", run) or start(run))
    patch.setattr(Block, "forward", block)
    patch.setattr(SidecarProcess, "start", lambda spec, *others: seen.metered.append(spec) or launch(spec, *others))
    patch.setattr("tfkit.carbon.meter._spawn", raising(OSError("no process in these tests: what it does is the carbon room's matter")))
    patch.setattr("tfkit.engine.training_run.attempt._measure_idle", lambda meter, seconds, *others: seen.idle.append(seconds))
    patch.setattr(datasets, "load_dataset", loaded)


def test_every_field_has_a_row(place: Path) -> None:
    found, source = list(fields()), open_recipe(str(place / "recipe.yaml"))
    changed = {*WHOLE, *(field_of(change, source) for change in ROWS)}
    assert len(found) == len(set(found))
    assert set(found) == changed | BUILT.keys() | REFUSED.keys() | JUDGED.keys() | PINNED | SHARED


UNSEEN = {  # changes that a run does not show, and a resumption refuses, too
    "": "model.dropout.head=0.1 ; objective.kind=classification ; model.mlp.experts={count: 2, active: 1}",
    f"{MASKS} | objective.next_sentence=true": "model.head.dense_bias=false",
    TAUGHT: f"objective.teacher_sha256={64 * 'f'}",
    SAMPLED: f"objective.gold=scored | objective.gold_sha256={64 * 'f'} ; objective.reward=scored | objective.reward_sha256={64 * 'f'}",
}
# What has no effect on the steps so far may change; what sets the length of a run is in tests/faults/test_changed_recipes.py.
LENGTH = ("training.steps", "training.epochs", "training.tokens", "training.patience")
FREE = (
    *("training.max_skipped_steps", "training.loss_jump_sigmas", "training.log_every", "training.tensorboard", "training.compile"),
    *("training.activation_checkpointing", "checkpoint.", "evaluation.", "generation.", "trackers", "carbon.", "parallel."),
    *("data.max_lost", "data.language"),
)


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.json"}


@pytest.mark.sampled(30)
@pytest.mark.parametrize(
    "change",
    [*TABLE, *(Change(words, "", given) for given, changes in UNSEEN.items() for words in changes.split(" ; "))],
    ids=lambda change: change.words,
)
def test_f39_a_change_is_seen_and_is_refused_or_too_late_when_its_run_is_resumed(change: Change, see: Callable[[str], Seen]) -> None:
    run = see(change.given)
    if change.look:
        look, after = LOOKS[change.look], see(f"{change.given} | {change.words}")
        assert look(run) != look(after), f"{change.words} is read by nothing that {change.look} looks at"
    if change.words.startswith(LENGTH):
        return
    before = files_of(run.folder)
    done = run_here([*run.command, *split(change.words), "--resume", "--json"])
    key, _, value = change.words.partition("=")
    field = f"\n  {re.sub(r'[.][0-9].*', '', key)}{'' if value.startswith('{') else ': '}"
    assert field in done.err, done.err
    assert files_of(run.folder) == before
    if not change.words.startswith(FREE):
        assert (done.code, done.document["error"]["code"]) == (2, 2), done.err
        assert "this run was started with another recipe, so it cannot continue:\n  " in done.err
        assert "Revert these changes, or start another run with --run" in done.err
        return
    assert (done.code, done.document["checkpoint"]) == (0, receipt(run.folder)["result"]["checkpoint"]), done.err
    assert f"warning: {run.folder}: finished, so these changes have no effect:\n" in done.err
    assert "warning" not in run_here(["resume", run.folder]).exits(0).err


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
def test_what_nothing_would_read_is_refused(name: str, place: Path) -> None:
    run_here(["check", "recipe.yaml", REFUSED[name]], place).exits(2, "remove it")


@pytest.mark.parametrize("look", ["curve", "weights", "samples", "evaluation", "forwards", "order", "targets"])
def test_what_is_looked_at_is_the_same_without_a_change(look: str, see: Callable[[str], Seen]) -> None:
    """Else the rows above would prove nothing."""
    assert LOOKS[look](see(DRAWS)) == LOOKS[look](see(f"{DRAWS} | training.seed=1"))
