"""A recipe that changed between save and resume: each field of the schema either may change, or is refused with the difference."""

import json
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_rows
from tiny_runs import Done, hashes, pretrain, run_here, run_tfkit, strike, write_corpus, write_recipe

from tfkit.recipe import model_config, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides

GPT = ["checkpoint.every=2", "data.on_bad_row=skip"]
LLAMA = [
    *("checkpoint.every=2", "model.preset=llama-7b", "model.position.theta=100", "optimizer={kind: muon}"),
    *("schedule={kind: wsd, warmup_steps: 2}", "evaluation.every=5"),
]
WORDS = ["checkpoint.every=2", "tokenizer.kind=wordpiece"]
CLASSES = ["checkpoint.every=2", "objective={kind: classification}", "data={train: [{path: labelled.jsonl}], validation: 0.3}"]
TAGS = [
    *("checkpoint.every=2", "objective={kind: tagging}"),
    "data={train: [{path: labelled.jsonl, columns: {tokens: [text, text], tags: [label, label]}}], validation: 0.3}",
]
ANSWERS = [
    *("checkpoint.every=2", "objective={kind: question_answering}", "tokenizer={kind: wordpiece, vocab_size: 200}"),
    "model={preset: bert-tiny, encoder_layers: 1, dim: 16, num_heads: 2, context_length: 24}",
    "data={train: [{path: answers.jsonl}], validation: 0.3}",
]
CHOICES = [
    *("checkpoint.every=2", "objective={kind: multiple_choice}"),
    "tokenizer={special_tokens: [_start_, _delimiter_, _classify_, <x>], vocab_size: 300}",
    "data={train: [{path: labelled.jsonl, columns: {context: text, choices: [label, text]}}], validation: 0.3}",
]
FACTORED = [
    *("checkpoint.every=2", "optimizer={kind: adafactor}", "training.batch_ramp={start: 2, tokens: 100}"),
    "schedule={kind: inverse_sqrt, flat_steps: 6}",
]
_T5 = [
    *("checkpoint.every=2", "tokenizer={kind: unigram, vocab_size: 200}"),
    "model={preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, context_length: 16}",
]
SPANS = [*_T5, "objective={kind: span_corruption}"]
WRITTEN = [
    *(*_T5, "objective={kind: text_to_text}"),
    "data={train: [{path: labelled.jsonl, columns: {source: text, target: label}}], validation: 0.3}",
]
CHAT = [
    *("checkpoint.every=2", "objective={kind: chat}", "tokenizer.variant=smollm2", "model.context_length=200"),
    "data={train: [{path: labelled.jsonl, columns: {instruction: text, output: label}}], validation: 0.3}",
]
MASKS = [
    *("checkpoint.every=2", "tokenizer={kind: wordpiece, vocab_size: 200}", "objective={kind: masked_lm, next_sentence: true}"),
    "data.validation=0.6",  # two documents at least: a next sentence may come from another
    "model={preset: bert-tiny, encoder_layers: 1, dim: 16, num_heads: 2, context_length: 16}",
]
STUDENT = ["checkpoint.every=2", "tokenizer={path: gpt}", "objective={kind: distillation, teacher: gpt, of: {kind: causal_lm}}"]
SAMPLED = [
    *("checkpoint.every=2", "objective={kind: grpo, rules: [{kind: contains, text: a}], prompts: 2, completions: 4, max_new_tokens: 4}"),
    *("data={train: [{path: labelled.jsonl, columns: {prompt: text}}], validation: 0.3}", "model.context_length=64"),
]
ADAPTED = ["checkpoint.every=2", "model={from: gpt}", "tokenizer={}", "training.adapter={rank: 2}"]
_PREFERRED = "data={train: [{path: preferences.jsonl}], validation: 0.3}"
PREFERRED = ["checkpoint.every=2", "model={from: gpt}", "tokenizer={}", "objective={kind: dpo}", _PREFERRED]
REWARDED = ["checkpoint.every=2", "model={from: gpt}", "tokenizer={}", "objective={kind: reward}", _PREFERRED]
SPARSE = ["checkpoint.every=2", "model.mlp.experts={count: 3, active: 2}"]
BEGUN = {
    "sparse": SPARSE,
    "masks": MASKS,
    "tags": TAGS,
    "answers": ANSWERS,
    "choices": CHOICES,
    "chat": CHAT,
    "spans": SPANS,
    "written": WRITTEN,
    "sampled": SAMPLED,
    "gpt": GPT,
    "llama": LLAMA,
    "words": WORDS,
    "classes": CLASSES,
    "factored": FACTORED,
    "student": STUDENT,
    "adapted": ADAPTED,
    "preferred": PREFERRED,
    "rewarded": REWARDED,
}

# Changes of fields, and the run that they are changes of. A field in neither table fails a test.
REFUSED = {
    change.replace("SHA256", 64 * "f"): name
    for name, changes in {
        "gpt": "model.vocab_size=400 | model.context_length=8 | model.decoder_layers=1 | model.dim=32 | model.hidden_dim=32 | "
        "model.num_heads=4 | model.num_kv_heads=1 | model.head_dim=4 | model.position={kind: rotary} | "
        "model.position.offset=2 | model.position.relative={kind: relative} | model.attention.qk_norm=head | "
        "model.norm.bias=false | model.norm.first=false | model.norm.kind=rms | model.norm.eps=1e-3 | "
        "model.norm.placement=post | model.embedding.scale=true | model.embedding.norm=true | model.embedding.segments=2 | "
        "model.attention.scale=1 | model.attention.softcap=50 | model.attention.windows=[8] | "
        "model.attention.qkv_bias=false | model.attention.out_bias=false | model.mlp.activation=relu | model.mlp.gated=true | "
        "model.mlp.bias=false | model.mlp.experts={count: 2, active: 1} | model.head.tied=false | model.head.bias=true | "
        "model.head.scale=0.5 | model.head.softcap=30 | model.head.choices=true | model.dropout.embedding=0.1 | "
        "model.dropout.attention=0.1 | model.dropout.residual=0.1 | model.dropout.hidden=0.1 | model.dropout.final=0.1 | "
        "model.dropout.head=0.1 | model.init.scheme=fan_in | model.init.std=0.2 | model.init.residual_scaling=false | "
        "tokenizer.kind=wordpiece | tokenizer.variant=smollm2 | tokenizer.vocab_size=290 | tokenizer.special_tokens=[<x>] | "
        "tokenizer.sample_bytes=1000 | tokenizer.add_bos=false | tokenizer={path: elsewhere} | data.train.0.weight=2 | "
        "data.validation=0.2 | data.on_bad_row=error | data.split_by=row | data.rows=9 | data.sequence_length=9 | "
        "objective.documents=joined | objective.kind=classification | optimizer={kind: muon} | optimizer.lr=2e-3 | "
        "optimizer.betas=[0.9, 0.99] | optimizer.eps=1e-6 | optimizer.bias_correction=false | optimizer.weight_decay=0 | "
        "optimizer.clip_norm=null | optimizer.layer_decay=0.5 | schedule.kind=linear | schedule.warmup_steps=3 | "
        "schedule={warmup_tokens: 100} | schedule={warmup_ratio: 0.25} | schedule.final_ratio=0.1 | schedule.decay_end=0.9 | "
        "training.batch_size=2 | training.micro_batch_size=1 | training.ema_decay=0.9 | training.frozen=[embedding.*] | "
        "training.unfreeze_every=5 | training.trial_rates=[0.1] | training.seed=2 | training.precision=bf16",
        "llama": "model.position.theta=200 | model.position.local_theta=100 | model.position.layers=[true, false] | "
        "model.position.fraction=0.5 | model.norm.unit_offset=true | "
        "model.position.scaling={factor: 2, original_context_length: 8} | optimizer.momentum=0.9 | optimizer.adamw_lr=1e-2 | "
        "schedule.decay_ratio=0.3",
        "masks": "model.embedding.dim=8 | model.head.dense_bias=false | objective.rate=0.2 | objective.split=[1, 0, 0] | "
        "objective.whole_words=true | objective.rarity=0.5 | objective.next_sentence=false | objective.short_rows=0.5",
        "sparse": "model.mlp.experts.count=4 | model.mlp.experts.active=1 | model.mlp.experts.hidden_dim=8 | "
        "model.mlp.experts.normalized=false | model.mlp.experts.layers=[true, false] | model.routing.balance=0.5 | "
        "model.routing.z_loss=0.5",
        "words": "tokenizer.lowercase=false | tokenizer.strip_accents=false",
        "classes": "data.length_groups=false | objective.labels=[no, yes, maybe] | objective.regression=true | "
        "objective.class_weights=balanced",
        "student": "objective.teacher=llama | objective.teacher_sha256=SHA256 | objective.of.documents=joined | "
        "objective.temperature=2 | objective.teacher_weight=2 | objective.text_weight=0.5 | objective.cosine_weight=1 | "
        "objective.copy_layers=[0, 1]",
        "spans": "objective.rate=0.3 | objective.mean_span=2 | objective.masking=static | model.position.buckets=8 | "
        "model.position.max_distance=64",
        "written": "objective.label_smoothing=0.1",
        "chat": "objective.format=chatml | objective.system=Rhyme. | objective.pack=true | objective.train_on=last",
        "preferred": "objective.beta=0.2 | objective.label_smoothing=0.2",
        "rewarded": "objective.chat=true | objective.every_token=true",
        "tags": "objective.labels=[yes, no]",
        "sampled": "objective.rules=[{kind: valid_python}] | objective.gold=gpt | objective.gold_sha256=SHA256 | objective.reward=gpt | "
        "objective.reward_sha256=SHA256 | objective.prompts=4 | objective.completions=2 | objective.inner_epochs=2 | "
        "objective.temperature=3 | objective.max_new_tokens=5 | objective.no_eos_reward=-1 | objective.beta=0.1 | "
        "objective.kl_limit=5 | objective.kl_stop=5 | objective.clip_range=0.1 | objective.scale_rewards=none",
        "answers": "objective.unanswerable=true | objective.doc_stride=1 | objective.max_answer_tokens=2",
        "choices": "objective.lm_weight=0 | objective.start=null | objective.delimiter=<x> | objective.classify=<x>",
        "factored": "optimizer.scale_parameter=false | optimizer.min_scale=0.1 | optimizer.decay_rate=0.5 | "
        "optimizer.clip_threshold=0.5 | schedule.flat_steps=7 | training.batch_ramp.start=1 | training.batch_ramp.tokens=200",
        "adapted": "training.adapter.rank=3 | training.adapter.alpha=8 | training.adapter.dropout=0.1 | "
        "training.adapter.targets=[k_proj] | training.adapter.merge=true",
    }.items()
    for change in changes.split(" | ")
}
# With the warning that is given, if there is one.
FREE = {
    "training.steps=6": "training.steps: 12 in the run, 6 now. The cosine schedule follows from the length",
    "training={steps: null, epochs: 0.5, batch_size: 4, precision: fp32}": "The cosine schedule follows from the length",
    "training={steps: null, tokens: 320, batch_size: 4, precision: fp32}": "The cosine schedule follows from the length",
    "training.activation_checkpointing=true": "activation_checkpointing: False in the run, True now",
    "training.compile=true": "compile: False in the run, True now",
    "training.max_skipped_steps=3": None,
    "training.loss_jump_sigmas=50": None,
    "data.max_lost=0.5": None,
    "training={steps: 12, patience: 3, batch_size: 4, precision: fp32}": None,
    "training.log_every=2": None,
    "training.tensorboard=true": None,
    "trackers=[{kind: tensorboard}]": None,
    "checkpoint.every=5": None,
    "checkpoint.keep=1": None,
    "evaluation.every=3": None,
    "evaluation.metric=perplexity": "not set in the run, perplexity now. From now on the best checkpoint is chosen by the new one",
    "evaluation.batch_size=2": None,
    "evaluation.max_tokens=100": "evaluation.max_tokens: 300 in the run, 100 now. Scores from now on cannot be compared",
    "evaluation.precision=bfloat16": None,
    "evaluation.bootstrap=50": None,
    "data.language=fr": None,
    "generation={prompts: [the], max_new_tokens: 3, temperature: 0, top_k: 3, top_p: 0.5, min_p: 0.1, stop: [a], seed: 2}": None,
    "generation={repetition_penalty: 1.2, no_repeat_ngram: 3}": None,
    "generation={num_beams: 2, length_penalty: 0.5, length_law: gnmt, early_stopping: never}": None,
    "parallel={replicas: 1, reshard: false}": None,
    "carbon.enabled=true": None,
    "carbon.country=FRA": None,
    "carbon.intensity_g_per_kwh=10": None,
    "carbon.pue=1.5": None,
    "carbon.every_seconds=9": None,
    "carbon.baseline_seconds=0.5": None,
    "carbon.budget_seconds=100000": None,
    "carbon={enabled: true, budget_g: 1000, budget_kwh: 1000, on_meter_failure: stop}": "an earlier attempt was not measured completely",
    "carbon={enabled: false, embodied_g_per_device_hour: 3, embodied_source: a data sheet}": None,
}
HARMLESS = (  # to the length of a training
    "training.max_skipped_steps=3",
    "training.loss_jump_sigmas=50",
    "training.log_every=2",
    "training.tensorboard=true",
)
SINGLE = {"data.train"}  # one value, or within a list: data.train.0.weight
SINGLE |= {"parallel.shard"}  # one process shares with none: tests/parallel/test_shared_weights.py changes it
SINGLE |= {"objective.of.kind", "objective.masked_only"}  # no other value goes with a causal student
SINGLE |= {"model.encoder_layers", "model.head.kind"}  # no other value goes with the objective, so it is not even compared
SINGLE |= {"model.head.next_sentence"}  # follows objective.next_sentence
SINGLE |= {"evaluation.text_metrics", "evaluation.bleu_tokenize"}  # of other objectives; as all of evaluation.*
SINGLE |= {"training.adapter.kind"}  # has one value
SINGLE |= {"data.pretraining"}  # of ppo alone
SINGLE |= {"carbon.intensity_file"}  # of which a file has to be there
SINGLE |= {
    "model.position.scaling",
    "model.position.relative",
    "model.mlp.experts",
    "model.routing",
    "training.batch_ramp",
    "training.adapter",
}  # null, or a section, whose fields are compared
SLOW = {"training.compile=true", "carbon.enabled=true", *(one for one in FREE if one.startswith("carbon={enabled: true"))}


def leaves(document: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in document.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return found


def fields(override: str) -> set[str]:
    """Return the fields that an override changes: the field, or those of a section that is given whole."""
    name, _, value = override.partition("=")
    inside = {part.partition(":")[0] for part in value.strip("{}").split(", ")} if value.startswith("{") else {""}
    return {f"{name}.{field}".rstrip(".") for field in inside}


def attempt(run: Path, recipe: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
    """A whole run in one process."""
    return run_tfkit(run.parent, arguments(run, recipe, *words), before)


def arguments(run: Path, recipe: Path, *words: str) -> list[str]:
    """The arguments of a run from random weights, or from a checkpoint."""
    command = "finetune" if any(word.startswith("model={from:") for word in words) else "pretrain"
    return [command, str(recipe), "--run", str(run), "--threads", "1", *words]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs that were stopped in step 4, under their names."""
    base = tmp_path_factory.mktemp("changed")
    write_recipe(base, write_corpus(base / "corpus"))
    rows = [{"text": f"the cat sat on {number} mats", "label": ["no", "yes"][number % 3 % 2]} for number in range(40)]
    asked = [{"question": "who sat", "context": row["text"], "answers": {"text": ["cat"], "answer_start": [4]}} for row in rows]
    write_rows(base / "answers.jsonl", asked)
    preferred = [{"prompt": f"who {number}", "chosen": row["text"][:9], "rejected": f"{number} mats"} for number, row in enumerate(rows)]
    write_rows(base / "preferences.jsonl", preferred)
    write_rows(base / "labelled.jsonl", rows)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(base)
    for name, words in BEGUN.items():
        attempt(base / name, base / "tiny.yaml", *words, before=strike(signal.SIGTERM, 4)).exits(143)
    yield base
    monkeypatch.undo()


def test_f39_every_field_has_a_row(stopped: Path) -> None:
    known: set[str] = set()
    for name, words in BEGUN.items():
        recipe = read_recipe(str(stopped / "tiny.yaml"), parse_overrides(words)).recipe
        document = recipe.model_dump(mode="json")
        described = {} if recipe.model.start is not None else model_config(recipe.model, 300).model_dump(mode="json")
        document["model"] = described
        known |= leaves(document)
        assert name in {*REFUSED.values()}
    covered = {field for override in (*REFUSED, *FREE) for field in fields(override)} | SINGLE
    assert known <= covered


@pytest.mark.sampled(5)
@pytest.mark.parametrize("change", REFUSED)
def test_f39_what_would_have_taken_other_steps_is_refused(stopped: Path, change: str) -> None:
    name = REFUSED[change]
    before = {path: path.read_bytes() for path in (stopped / name).rglob("*") if path.is_file() and path.name != "run.json"}
    done = run_here(arguments(stopped / name, stopped / "tiny.yaml", *BEGUN[name], change, "--resume"))
    assert (done.code, done.out) == (2, ""), done.err
    assert "this run was started with another recipe, so it cannot continue:\n  " in done.err
    field = "data.train" if change.startswith("data.train") else sorted(fields(change))[0]
    assert f"\n  {field}: " in done.err
    assert "Revert these changes, or start another run with --run" in done.err
    after = {path: path.read_bytes() for path in (stopped / name).rglob("*") if path.is_file() and path.name != "run.json"}
    assert before == after


@pytest.mark.sampled(6)
@pytest.mark.parametrize("change", [pytest.param(change, marks=[pytest.mark.slow] * (change in SLOW)) for change in FREE])
def test_f39_what_may_change_goes_on(stopped: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(stopped / "gpt", tmp_path / "gpt")
    # As outside pytest: torch.compile's own warnings are no errors.
    before = (lambda: warnings.simplefilter("ignore")) if "compile" in change else None
    done = pretrain(tmp_path / "gpt", stopped / "tiny.yaml", *GPT, change, "--resume", before=before).exits(0)
    warning = FREE[change]
    warned = [line for line in done.err.splitlines() if line.startswith("warning: ") and "CodeCarbon" not in line]
    assert len(warned) == (warning is not None), done.err
    assert warning is None or warning in warned[0]


@pytest.fixture(scope="module")
def finished(stopped: Path) -> Path:
    """A run of its full length."""
    pretrain(stopped / "finished", stopped / "tiny.yaml", *GPT).exits(0)
    return stopped / "finished"


@pytest.mark.parametrize("change", [change for change in FREE if not change.startswith("training") or change in HARMLESS])
def test_f39_a_finished_run_repeats_its_result_and_says_that_a_change_comes_too_late(finished: Path, change: str) -> None:
    result = json.loads((finished / "run.json").read_text())["result"]
    done = run_here(arguments(finished, finished.parent / "tiny.yaml", *GPT, change, "--resume", "--json"))
    assert (done.code, json.loads(done.out)["checkpoint"]) == (0, result["checkpoint"]), done.err
    assert f"warning: {finished}: finished, so these changes have no effect:\n" in done.err
    assert any(f"\n  {field}" in done.err for field in fields(change))
    again = run_here(["resume", finished])
    assert (again.code, "warning" in again.err) == (0, False), again.err


def test_f39_the_schedule_that_does_not_depend_on_the_length_has_no_warning(stopped: Path, tmp_path: Path) -> None:
    words = [*GPT, "schedule={kind: inverse_sqrt, warmup_steps: 2}"]
    assert pretrain(tmp_path / "run", stopped / "tiny.yaml", *words, before=strike(signal.SIGTERM, 4)).code == 143
    done = pretrain(tmp_path / "run", stopped / "tiny.yaml", *words, "training.steps=14", "--resume")
    assert (done.code, "warning" in done.err) == (0, False), done.err


def test_f39_another_machine_is_said_once(stopped: Path, tmp_path: Path) -> None:
    """As run.json would have it: the run folder came from elsewhere."""
    shutil.copytree(stopped / "gpt", tmp_path / "gpt")
    receipt = tmp_path / "gpt" / "run.json"
    document = json.loads(receipt.read_text(encoding="utf-8"))
    torch = document["versions"]["torch"]
    document |= {"threads": 7, "device": "cuda:0", "processor": {"name": "Elsewhere"}, "versions": {"torch": "1.0"}}
    receipt.write_text(json.dumps(document), encoding="utf-8")
    done = pretrain(tmp_path / "gpt", stopped / "tiny.yaml", *GPT, "--resume", before=strike(signal.SIGTERM, 2)).exits(143)
    assert done.err.count("warning") == 1
    for part in (
        "threads: 7 in the run, 1 now",
        "device: cuda:0 in the run, cpu now",
        "processor: Elsewhere in the run",
        f"torch: 1.0 in the run, {torch} now",
    ):
        assert part in done.err
    done = pretrain(tmp_path / "gpt", stopped / "tiny.yaml", *GPT, "--resume")
    assert (done.code, "warning" in done.err) == (0, False), done.err


def test_f39_checkpointing_of_activations_changes_no_bit(stopped: Path, tmp_path: Path) -> None:
    for name in ("same", "again"):
        shutil.copytree(stopped / "gpt", tmp_path / name)
    changes = {"same": [], "again": ["training.activation_checkpointing=true"]}
    for name, words in changes.items():
        assert pretrain(tmp_path / name, stopped / "tiny.yaml", *GPT, *words, "--resume").code == 0
    assert hashes(tmp_path / "same", 12) == hashes(tmp_path / "again", 12)
