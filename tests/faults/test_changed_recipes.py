"""A recipe that changed between save and resume: a change goes on, perhaps with a warning, or is refused with the difference."""

import json
import shutil
import signal
import warnings
from pathlib import Path

import pytest
from saved_runs import contents
from tiny_files import receipt
from tiny_runs import hashes, pretrain, strike

GPT = ["checkpoint.every=2", "data.on_bad_row=skip"]
REFUSED = ("optimizer.lr=2e-3", "model.dim=32", "data.train.0.weight=2")  # tests/recipe/test_every_field.py changes every field
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
    "evaluation.metric=perplexity": "not set in the run, perplexity now. From now on the new metric chooses the best checkpoint",
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
SLOW = {"training.compile=true", "carbon.enabled=true", *(one for one in FREE if one.startswith("carbon={enabled: true"))}


@pytest.fixture(scope="module")
def stopped(base: Path) -> Path:
    """A folder with a run that was stopped in step 4."""
    pretrain(base / "gpt", base / "tiny.yaml", *GPT, before=strike(signal.SIGTERM, 4)).exits(143)
    return base


@pytest.mark.parametrize("change", REFUSED)
def test_f39_what_would_have_taken_other_steps_is_refused(stopped: Path, change: str) -> None:
    before = contents(stopped / "gpt")
    pretrain(stopped / "gpt", stopped / "tiny.yaml", *GPT, change, "--resume").refuses(
        2,
        f"this run was started with another recipe, so it cannot continue:\n  {change.partition('.0.')[0].partition('=')[0]}: ",
        "Revert these changes, or start another run with --run",
    )
    assert contents(stopped / "gpt") == before


@pytest.mark.sampled(9)
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


@pytest.mark.thorough
def test_f39_the_schedule_that_does_not_depend_on_the_length_has_no_warning(stopped: Path, tmp_path: Path) -> None:
    words = [*GPT, "schedule={kind: inverse_sqrt, warmup_steps: 2}"]
    pretrain(tmp_path / "run", stopped / "tiny.yaml", *words, before=strike(signal.SIGTERM, 4)).exits(143)
    done = pretrain(tmp_path / "run", stopped / "tiny.yaml", *words, "training.steps=14", "--resume")
    assert (done.code, "warning" in done.err) == (0, False), done.err


def test_f39_another_machine_is_said_once(stopped: Path, tmp_path: Path) -> None:
    """As run.json would have it: the run folder came from elsewhere."""
    shutil.copytree(stopped / "gpt", tmp_path / "gpt")
    document = receipt(tmp_path / "gpt")
    elsewhere = {"threads": 7, "device": "cuda:0", "processor": {"name": "Elsewhere"}, "versions": {"torch": "1.0"}}
    (tmp_path / "gpt" / "run.json").write_text(json.dumps(document | elsewhere), encoding="utf-8")
    done = pretrain(tmp_path / "gpt", stopped / "tiny.yaml", *GPT, "--resume", before=strike(signal.SIGTERM, 2))
    said = ["threads: 7 in the run, 1 now", "device: cuda:0 in the run, cpu now", "processor: Elsewhere in the run"]
    done.exits(143, *said, f"torch: 1.0 in the run, {document['versions']['torch']} now")
    assert done.err.count("warning") == 1
    done = pretrain(tmp_path / "gpt", stopped / "tiny.yaml", *GPT, "--resume")
    assert (done.code, "warning" in done.err) == (0, False), done.err


@pytest.mark.thorough
def test_f39_checkpointing_of_activations_changes_no_bit(stopped: Path, tmp_path: Path) -> None:
    for name, words in {"same": [], "again": ["training.activation_checkpointing=true"]}.items():
        shutil.copytree(stopped / "gpt", tmp_path / name)
        pretrain(tmp_path / name, stopped / "tiny.yaml", *GPT, *words, "--resume").exits(0)
    assert hashes(tmp_path / "same", 12) == hashes(tmp_path / "again", 12)
