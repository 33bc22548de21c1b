"""tfkit pretrain as a process on a tiny corpus: what it leaves behind, what it says, and how it ends."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_files import emissions_rows, read_json, receipt
from tiny_runs import Before, assert_same_bits, both, exact, hashes, kept, pretrain, records, strike

import tfkit
import tfkit.engine.training_run.loop_hooks
from tfkit.carbon.footprint import MEASURED
from tfkit.objectives.causal_lm import CausalLM
from tfkit.run.manifest import verify
from tfkit.training.step import Stepper

LINE = {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "memory", "energy_wh", "emissions_g"}


@pytest.fixture(scope="module")
def recipe(base: Path) -> Path:
    return base / "tiny.yaml"


@pytest.fixture(scope="module")
def run(base: Path, recipe: Path) -> Path:
    """A finished run, which no test changes."""
    done = pretrain(base / "run", recipe, "--json", "checkpoint.every=5", "generation.prompts=[the cat]", "generation.max_new_tokens=5")
    done.exits(0, "training tokens, vocabulary 300", "step 12/12  loss", "step 12: validation loss")
    assert " s per step" not in done.err, "of a short run"
    (base / "run.stdout").write_text(done.out, encoding="utf-8")
    return base / "run"


def test_the_program_itself(base: Path, recipe: Path) -> None:
    """Not a fork of the tests: the real command, quiet, its result as one document."""
    command = [sys.executable, "-m", "tfkit", "pretrain", str(recipe), "--quiet", "--json", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(tfkit.__file__).parent.parent)}
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["run"] == str(base / "runs" / "tiny")  # the recipe's name
    assert (base / "runs" / "tiny" / "checkpoints" / "step-000012" / "manifest.json").is_file()


def test_the_document(base: Path, run: Path) -> None:
    document = json.loads((base / "run.stdout").read_text(encoding="utf-8"))
    assert list(document) == [
        *("schema_version", "run", "checkpoint", "status", "steps", "tokens", "loss", "evaluation", "before", "improvement"),
        *("baselines", "beats_baseline", "best_baseline", "new_head", "sequence_length", "rate_trial", "best", "stopped_early"),
        *("stopped_by", "seconds", "train_seconds", "tokens_per_second"),
        *MEASURED,
        *("inherited_g", "inherited_kwh", "inherited_is_lower_bound", "gates"),
    ]
    checkpoint = run / "checkpoints" / "step-000012"
    expected = {"schema_version": 1, "steps": 12, "tokens": 12 * 4 * 16, "status": "finished", "stopped_early": False}
    expected |= {"run": str(run), "checkpoint": str(checkpoint), "evaluation": records(run)[-2]["evaluation"], "carbon_status": "off"}
    expected |= {"loss": [record["loss"] for record in records(run) if "loss" in record][-1]}
    expected |= dict.fromkeys({*MEASURED} - {"carbon_status"})  # not measured, which is not 0
    assert document == document | expected
    assert document["evaluation"].keys() == {"loss", "perplexity", "bits_per_byte", "target_tokens"}
    best = document["best"]
    assert (best["metric"], best["checkpoint"]) == ("loss", str(run / "checkpoints" / f"step-{best['step']:06d}"))
    assert document["seconds"] > document["train_seconds"] > 0
    assert document["tokens_per_second"] == pytest.approx(document["tokens"] / document["train_seconds"], rel=0.05)


def test_the_run_folder(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {"recipe.yaml", "run.json", "metrics.jsonl", "emissions.csv", "checkpoints", "lock"}
    assert kept(run) == ["step-000010", "step-000012"]
    about = receipt(run)
    expected = {"status": "finished", "name": "run", "threads": 1, "device": "cpu", "precision": "torch.float32"}
    assert about == about | expected
    assert about["result"]["steps"] == 12
    times = {"seconds", "train_seconds", "tokens", "train_flops", "hardware_flops_bound", "rework_kwh", "rework_g", "rework_seconds"}
    assert about["totals"].keys() == {*times, *MEASURED}
    assert about["totals"]["seconds"] == about["result"]["seconds"] <= about["attempts"][0]["seconds"]
    assert [attempt["to_step"] for attempt in about["attempts"]] == [12]
    assert {"versions", "processor", "platform", "commit", "data", "command"} <= about.keys()
    assert (bool(about["data"]["train"]), bool(about["data"]["validation"]), emissions_rows(run)) == (True, True, [])


def test_the_checkpoint_is_a_model_folder(run: Path) -> None:
    folder = run / "checkpoints" / "step-000012"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "README.md", "tfkit.json", "training_state", "manifest.json"),
    }
    assert {path.name for path in (folder / "training_state").iterdir()} == {"optimizer.safetensors", "state.json"}
    assert verify(folder) == []  # also after the evaluation has put its numbers into the card
    assert "| validation perplexity |" in (folder / "README.md").read_text(encoding="utf-8")
    facts = read_json(folder / "tfkit.json")
    assert (facts["step"], facts["objective"], facts["lineage"]["training"]) == (12, "causal_lm", "pre-training")
    loaded = tfkit.load(run)
    assert (loaded.config.dim, loaded.family) == (16, "gpt2")


def test_metrics(run: Path) -> None:
    """Order: the line, then the evaluation of a step, then what the model writes."""
    found = records(run)
    kinds = [(record["step"], "evaluation" if "evaluation" in record else "samples" if "samples" in record else "line") for record in found]
    assert kinds == [
        *((3, "line"), (4, "evaluation"), (4, "samples"), (6, "line"), (8, "evaluation"), (8, "samples"), (9, "line")),
        *((12, "line"), (12, "evaluation"), (12, "samples")),
    ]
    lines = [record for record in found if "loss" in record]
    assert lines[0]["lr"] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi / 10)))
    for line in lines:
        assert (line.keys(), line["tokens"]) == (LINE, line["step"] * 64)
        assert min(line["grad_norm"], line["memory"] - 1e7, line["tokens_per_second"]) > 0 < line["mfu"] < 1
        assert line["energy_wh"] is line["emissions_g"] is None  # not measured, which is not 0
    (sample,) = found[-1]["samples"]
    assert (sample["prompt"], bool(sample["completion"])) == ("the cat", True)


def test_a_finished_run_is_not_begun_again_and_resuming_repeats_its_result(base: Path, run: Path, recipe: Path) -> None:
    words = ["checkpoint.every=5", "generation.prompts=[the cat]", "generation.max_new_tokens=5"]
    before = (run / "metrics.jsonl").read_bytes(), hashes(run, 12)
    pretrain(run, recipe).refuses(2, "--resume", "--run")
    done = pretrain(run, recipe, "--resume", "--json", *words).exits(0, "this run is finished; here is its result again")
    assert done.out == (base / "run.stdout").read_text(encoding="utf-8")
    assert ((run / "metrics.jsonl").read_bytes(), hashes(run, 12), len(receipt(run)["attempts"])) == (*before, 1)
    assert pretrain(run, recipe, "--resume", *words).out.startswith("checkpoint")


def test_the_resolved_recipe_gives_the_same_run(base: Path, run: Path) -> None:
    saved = Path(shutil.copy(run / "recipe.yaml", base / "resolved.yaml"))
    pretrain(base / "again", saved).exits(0)
    assert_same_bits(base / "again", run, 12)
    assert (base / "again" / "recipe.yaml").read_bytes() == saved.read_bytes()
    pretrain(base / "again", base / "again" / "recipe.yaml", "--resume").exits(0, "this run is finished")


def test_a_run_of_one_step_is_described_in_the_singular(base: Path, recipe: Path) -> None:
    slow = both(Before(Stepper, "take", lambda *_, **__: time.sleep(0.5)))
    done = pretrain(base / "short", recipe, "--minutes", "0.01", before=slow).exits(0, "minutes, by the time of a few steps: 1 step; ")
    assert any(line.startswith("1 step of 4 rows") for line in done.err.splitlines()), done.err


def test_the_size_of_the_run_is_said_before_its_first_step(base: Path, recipe: Path) -> None:
    """Also where the recipe names the micro-batch; the memory is about what the process takes in the end."""
    done = pretrain(base / "sized", recipe, "training.micro_batch_size=2", "carbon.budget_seconds=1e6").exits(0)  # which reads the forecast
    assert [line.split("  ")[0] for line in done.out.splitlines()] == ["checkpoint", "trained", "loss", "validation"]
    (line,) = [line for line in done.err.splitlines() if line.startswith("12 steps of 4 rows")]
    assert line.startswith("12 steps of 4 rows, about 64 tokens each, ")
    assert " epochs; micro-batches of 2 rows, at most 32 tokens" in line
    assert re.search(r"; roughly \d+:\d\d$", line)
    if sys.platform == "linux":
        said = float(line.partition("; about ")[2].partition(" GB")[0]) * 1e9
        assert said == pytest.approx(records(base / "sized")[-1].get("memory") or records(base / "sized")[0]["memory"], rel=0.3)


def test_the_time_of_a_longer_run_is_said_once_by_its_first_steps(base: Path, recipe: Path) -> None:
    def before() -> None:
        tfkit.engine.training_run.loop_hooks.WORTH_REPORTING_SECONDS = 0.0

    done = pretrain(base / "timed", recipe, before=before)
    (line,) = [line for line in done.err.splitlines() if " s per step" in line]
    assert re.fullmatch(r"step 3: [\d.e-]+ s per step, so about \d+:\d\d for the 9 remaining steps", line)


def test_a_tokenizer_that_transformers_saved(base: Path, run: Path, recipe: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(run / "checkpoints" / "step-000012")
    theirs.save_pretrained(base / "tokenizer")
    text = recipe.read_text(encoding="utf-8").replace("{vocab_size: 300}", json.dumps({"path": str(base / "tokenizer")}))
    (base / "with-path.yaml").write_text(text, encoding="utf-8")
    other = base / "with-path"
    done = pretrain(other, base / "with-path.yaml", "--json").exits(0)
    assert pretrain(other, base / "with-path.yaml", "--json", "--resume").out == done.out
    saved = AutoTokenizer.from_pretrained(other / "checkpoints" / "step-000012")
    assert saved("the cat 🙂").input_ids == theirs("the cat 🙂").input_ids
    losses, expected = ([record["loss"] for record in exact(one) if "loss" in record] for one in (other, run))
    assert losses == expected


def test_what_fails_before_the_first_step_is_an_attempt_too(base: Path, recipe: Path) -> None:
    run = base / "early"
    pretrain(run, recipe, "data.train=[{path: nowhere.txt}]").exits(3)
    about = receipt(run)
    (attempt,) = about["attempts"]
    assert (about["status"], attempt["status"], attempt["from_step"], attempt["to_step"]) == ("failed", "failed", 0, None)
    assert "nowhere.txt" in attempt["error"]
    assert about["versions"]["torch"]
    assert (about["totals"]["carbon_status"], "tokens" in about["totals"]) == ("off", False)
    assert pretrain(run, recipe, "training.steps=2", "evaluation.every=null").code == 0, "there was no checkpoint to lose"
    assert [attempt["status"] for attempt in receipt(run)["attempts"]] == ["failed", "finished"]


def test_a_perplexity_beyond_all_numbers(base: Path, recipe: Path) -> None:
    """More than 700 nats a token, of weights that are far too large: null in JSON, and named; the same when it is repeated."""
    words = ["model.init.std=300", "optimizer.lr=1e-9", "training.steps=2"]
    done = pretrain(base / "perplexed", recipe, "--json", *words).exits(0)
    document = json.loads(done.out, parse_constant=pytest.fail)
    assert document["evaluation"]["loss"] > 700
    assert (document["evaluation"]["perplexity"], document["nonfinite"]) == (None, {"evaluation.perplexity": "inf"})
    assert pretrain(base / "perplexed", recipe, "--json", "--resume", *words).out == done.out
    assert "perplexity not finite" in pretrain(base / "perplexed", recipe, "--resume", *words).out


def test_a_loss_that_is_not_finite_ends_the_run_and_without_a_checkpoint_the_recipe_may_change(base: Path, run: Path, recipe: Path) -> None:
    """A huge learning rate: the weights of the first step overflow float32 in the second, whose loss is NaN. There is nothing that
    another rate could contradict. tests/faults/test_health.py has the checkpoints that stay.
    """
    other = base / "unhealthy"
    words = ["optimizer.lr=1e30", "schedule.warmup_steps=0", "evaluation.every=null"]
    pretrain(other, recipe, *words).refuses(6, "no weight was changed by this step", "A lower optimizer.lr")
    about = receipt(other)
    assert (about["status"], "the loss is" in about["attempts"][0]["error"], kept(other)) == ("failed", True, [])
    assert about["totals"]["tokens"] > 0
    assert about["totals"]["seconds"] > about["totals"]["train_seconds"] > 0
    pretrain(other, recipe).exits(0)
    assert hashes(other, 12) == hashes(run, 12)


def test_bf16_runs_where_there_is_no_hardware_for_it_too(base: Path, recipe: Path) -> None:
    pretrain(base / "bf16", recipe, "training.precision=bf16", "training.steps=3").exits(0)
    loaded = tfkit.load(base / "bf16").model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}  # the master
    assert any(not torch.equal(p, p.bfloat16().float()) for p in loaded.parameters())


def test_the_memory_of_a_row_is_estimated_by_one_row(base: Path, tmp_path: Path) -> None:
    """Not by a batch that is cut into as many micro-batches as it has rows, which takes minutes where it has 100,000."""

    def count(*_: object) -> None:
        with (tmp_path / "collated").open("ab") as file:
            file.write(b".")

    before = both(Before(CausalLM, "collate", count), strike(signal.SIGKILL, 1))
    pretrain(tmp_path / "run", base / "tiny.yaml", "training.batch_size=4096", before=before).exits(-signal.SIGKILL)
    assert (tmp_path / "collated").stat().st_size < 100
