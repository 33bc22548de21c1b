"""Optimizers, schedules and batches that contradict each other, and fields that nothing would read: each reported at its place;
and the metrics that can choose the best checkpoint: those that an evaluation of the training reports.
"""

from pathlib import Path

import pytest
from recipe_texts import errors, read
from tiny_runs import run_here

from tfkit.recipe.schema.label_sections import ClassificationSection, MultipleChoiceSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.objective_sections import TextToTextSection, metrics_of

RECIPE = "model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 100, batch_size: 32}\n"
TOKENS = "training={tokens: 1000, batch_size: 8}"
ENDS = "schedule.decay_end: the warm-up ends after it:"


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer={kind: adam, lr: 1.0}", "schedule={kind: noam, warmup_steps: 40}"],
        ["optimizer={kind: adamw, lr: 1e-4, betas: [0.9, 0.999], eps: 1e-6, weight_decay: 0.01, bias_correction: false}"],
        ["optimizer={kind: adafactor}", "schedule={kind: inverse_sqrt, flat_steps: 10000}"],
        ["schedule={warmup_tokens: 20000}", "training.batch_ramp={start: 4, tokens: 100000}", "training.micro_batch_size=2"],
        ["training.ema_decay=0.999"],
    ],
)
def test_as_the_papers_had_it(words: list[str]) -> None:
    assert errors(RECIPE, *words) == []


REFUSED = {
    "schedule={kind: noam, warmup_steps: 40}": "schedule.kind: the noam schedule multiplies optimizer.lr, so set it; 1.0 gives",
    "schedule.kind=noam | optimizer.lr=1.0": "schedule: the noam schedule needs warmup_steps; the paper's is 4000",
    "schedule={kind: noam, warmup_tokens: 40} | optimizer.lr=1.0": "schedule.warmup_tokens: the noam schedule counts steps: give "
    "warmup_steps instead",
    "schedule={warmup_tokens: 40, warmup_steps: 2}": "schedule.warmup_tokens: the warm-up is in steps or in tokens",
    f"{TOKENS} | schedule={{warmup_tokens: 1001}}": "schedule.warmup_tokens: 1001 tokens of warm-up, but training.tokens is 1000",
    "schedule={flat_steps: 3}": "schedule.flat_steps: only the inverse_sqrt schedule reads it; remove it",
    "schedule={kind: noam, warmup_steps: 4, final_ratio: 0.1} | optimizer.lr=1.0": "schedule.final_ratio: the noam schedule does",
    "schedule={kind: wsd, decay_end: 0.5}": "schedule.decay_end: the wsd schedule does not read it; remove it",
    "schedule={decay_end: 0.5, warmup_steps: 60}": f"{ENDS} 60 steps of 100",
    f"{TOKENS} | schedule={{kind: wsd, decay_ratio: 0.5, warmup_tokens: 501}}": "schedule.decay_ratio: warm-up and decay together are "
    "longer than training.tokens, which is 1000",
    f"{TOKENS} | schedule={{decay_end: 0.5, warmup_tokens: 501}}": f"{ENDS} 501 tokens of 1000",
    "schedule={decay_end: 0.5, warmup_ratio: 0.6}": f"{ENDS} warmup_ratio is 0.6",
    "schedule={kind: wsd, decay_ratio: 0.5, warmup_ratio: 0.6}": "schedule.decay_ratio: warm-up and decay together are longer than the "
    "run: warmup_ratio is 0.6",
    "training.batch_ramp={start: 5, tokens: 9}": "training: batch_size 32 is not a multiple of batch_ramp.start 5",
    "training.batch_ramp={start: 32, tokens: 9}": "training: batch_size 32 is not a multiple of batch_ramp.start 32, twice it or more",
    "training.batch_ramp={start: 4, tokens: 9} | training.micro_batch_size=8": "training: micro_batch_size 8 does not divide "
    "batch_ramp.start 4",
    "training.ema_decay=1": "training.ema_decay: must be less than 1, not 1",
    "optimizer={kind: adam, weight_decay: 0.1}": "optimizer.weight_decay: unknown",
    "optimizer={kind: adafactor, betas: [0.9, 0.9]}": "optimizer.betas: unknown",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused(words: str) -> None:
    [found] = errors(RECIPE, *words.split(" | "))
    assert REFUSED[words] in found


@pytest.mark.parametrize(
    ("objective", "reported", "unreported"),
    [
        (MultipleChoiceSection(kind="multiple_choice"), "lm", "rmse"),
        (MultipleChoiceSection(kind="multiple_choice", lm_weight=0), "choices", "lm"),
        (TextToTextSection(kind="text_to_text", label_smoothing=0.1), "nll", "bleu"),
        (TextToTextSection(kind="text_to_text", label_smoothing=0), "loss", "nll"),
        (ClassificationSection(kind="classification", regression=True), "rmse", "accuracy"),
    ],
)
def test_a_metric_that_is_not_reported_chooses_nothing(objective: ObjectiveSection, reported: str, unreported: str) -> None:
    assert reported in metrics_of(objective)
    assert unreported not in metrics_of(objective)


@pytest.mark.parametrize("length", ["training.steps=100 | schedule.warmup_steps=45", f"{TOKENS} | schedule.warmup_tokens=450"])
def test_a_warm_up_that_ends_where_the_decay_begins_is_allowed(length: str) -> None:
    """In floats, 0.55 of 100 and 45 are more than 100."""
    assert read(RECIPE, *length.split(" | "), "schedule.kind=wsd", "schedule.decay_ratio=0.55").schedule.decay_ratio == 0.55


# -- tfkit check --ranks: what cannot be dealt evenly is a problem at its field, and the sizes that it names can be dealt


STAGE = "{model: {preset: gpt2}, data: {train: [{stdlib: true}]}, training: {steps: 3, batch_size: SIZE}}"
RAMP = "training.batch_ramp={start: 8, tokens: 1000}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(STAGE.replace("SIZE", "32"), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("words", "ranks"), [([], 32), (["training.micro_batch_size=4"], 8), ([RAMP], 8), ([RAMP, "training.micro_batch_size=2"], 4)]
)
def test_work_that_divides(path: Path, words: list[str], ranks: int) -> None:
    run_here(["check", path, *words, "--ranks", ranks]).exits(0)


@pytest.mark.parametrize(
    ("words", "ranks", "field", "advice", "remedies"),
    [
        ([], 5, "training.batch_size", "the nearest possible sizes are 30 and 35", ["batch_size=30", "batch_size=35"]),
        ([], 64, "training.batch_size", "the smallest possible size is 64", ["batch_size=64"]),
        (["micro_batch_size=4"], 3, "training.batch_size", "the nearest possible sizes are 24 and 36", ["batch_size=24", "batch_size=36"]),
        (["micro_batch_size=4"], 16, "training.micro_batch_size", "take micro-batches of 2", ["micro_batch_size=2", "batch_size=64"]),
        (["batch_ramp={start: 8, tokens: 1000}"], 16, "training.batch_ramp.start", "possible size is 16", ["batch_ramp.start=16"]),
    ],
)
def test_uneven_work_and_its_remedies(path: Path, words: list[str], ranks: int, field: str, advice: str, remedies: list[str]) -> None:
    check = ["check", path, "--json", "--ranks", ranks, *(f"training.{word}" for word in words)]
    (problem,) = run_here(check).exits(2).document["errors"]
    assert problem["path"] == field
    assert words or (problem["line"], problem["column"]) == (1, 91)
    assert f"among {ranks} ranks" in problem["message"]
    assert advice in problem["message"]
    for remedy in remedies:
        run_here([*check, f"training.{remedy}"]).exits(0)


def test_responses_are_dealt_too() -> None:
    words = ["objective.prompts=3", "objective.completions=8", "training.batch_size=24", "training.micro_batch_size=null"]
    recipe = ["check", "grpo-sums", *words, "--ranks"]
    assert "responses of an iteration cannot" not in run_here([*recipe, 8]).err
    said = "24 responses of an iteration cannot be divided evenly among 16 ranks: the nearest possible sizes are 16 and 32"
    run_here([*recipe, 16]).exits(2, said)


def test_each_stage_of_a_chain_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(f"stages:\n  a: {STAGE.replace('SIZE', '8')}\n  b: {STAGE.replace('SIZE', '6')}\n", encoding="utf-8")
    run_here(["check", path, "--ranks", 4]).exits(2, "b.training.batch_size: 6 rows cannot be divided evenly among 4 ranks")
    run_here(["check", path, "--ranks", 2]).exits(0)
