"""tfkit average: the mean of a run's last checkpoints, whole or not at all, and only of what belongs together."""

import json
import os
import shutil
from pathlib import Path

import fake_codecarbon
import pytest
import torch
from fake_codecarbon import G_PER_KWH
from ruamel.yaml import YAML
from safetensors.torch import load_file
from tiny_files import edit_weights, flip, read_json
from tiny_runs import pretrain, raising, records, run_here, run_tfkit
from transformers import AutoModelForCausalLM

from tfkit import average, load
from tfkit.errors import UsageError
from tfkit.hub import content_hash
from tfkit.run.manifest import write_manifest

EVERY = ["training.steps=6", "checkpoint={every: 1, keep: 4}", "evaluation.every=6", "training.ema_decay=0.9"]


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    """A run whose checkpoints 3 to 6 are kept, each itself a mean over the steps."""
    pretrain(base / "run", base / "tiny.yaml", *EVERY).exits(0)
    return base / "run"


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def test_the_mean_of_the_last_three(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "mean"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    document = run_here(["average", run, "--last", "3", "--out", out, "--json"]).exits(0).document
    chosen = [checkpoint(run, step) for step in (4, 5, 6)]
    names = [path.name for path in chosen]
    assert document.pop("seconds") > 0
    unmetered = {"energy_kwh": None, "energy_kwh_parts": None, "emissions_g": None, "carbon_status": "off", "place": None}
    assert document == {"schema_version": 1, "run": str(run), "model": str(out), "checkpoints": names, "step": 6, **unmetered}
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    mean, parts = load_file(out / "model.safetensors"), [load_file(path / "model.safetensors") for path in chosen]
    assert mean.keys() == parts[0].keys()
    for name, tensor in mean.items():
        expected = sum(part[name].double() for part in parts) / 3
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected.float()), name
        assert not torch.equal(tensor, parts[2][name]), name

    facts, newest = read_json(out / "tfkit.json"), read_json(chosen[-1] / "tfkit.json")
    assert [parent["sha256"] for parent in facts["lineage"]["parents"]] == [content_hash(path) for path in chosen]
    assert facts["averaged"] == {"kind": "mean", "checkpoints": 3, "of": {"kind": "exponential", "decay": 0.9, "steps": 6}}
    assert (facts["run_id"], facts["step"], facts["model"]) == (newest["run_id"], 6, newest["model"])
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| weights | mean of step-000004, step-000005, step-000006 |" in card
    assert "| parameters |" in card
    assert "loss" not in card
    assert not (out / "training_state").exists()
    run_here(["verify", out]).exits(0)


def test_the_library_writes_the_same_folder_which_transformers_and_from_open(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "command"
    assert run_here(["average", run, "--last", "2", "--out", out]).exits(0).out == f"{out}: the mean of step-000005, step-000006\n"
    done = average(run, tmp_path / "call", last=2)
    assert (done.checkpoints, done.step) == (["step-000005", "step-000006"], 6)
    command, call = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (out, tmp_path / "call"))
    assert command == call
    with pytest.raises(UsageError, match="is never overwritten; give another `out`"):
        average(run, tmp_path / "call")
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits
        ours = load(out).model(ids).logits
        newest = load(checkpoint(run, 6)).model(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, newest, atol=1e-5)
    run_here(["generate", "--from", out, "--prompt", "the", "--max-new-tokens", "3", "carbon.enabled=false"]).exits(0)


def test_checkpoints_hold_the_mean_that_was_scored(run: Path) -> None:
    """With training.ema_decay: evaluate gives what the run said of its last step; the latest weights are in the training state."""
    (scored,) = [record["evaluation"] for record in records(run) if "evaluation" in record]
    words = ["evaluate", run / "recipe.yaml", "--from", checkpoint(run, 6), "--json", "evaluation.max_tokens=300", "carbon.enabled=false"]
    assert run_here(words).exits(0).document["metrics"]["loss"] == pytest.approx(scored["loss"], rel=1e-6)
    state = load_file(checkpoint(run, 6) / "training_state" / "optimizer.safetensors")
    latest = {name.removeprefix("latest/"): tensor for name, tensor in state.items() if name.startswith("latest/")}
    mean = load(checkpoint(run, 6)).model.state_dict()
    assert latest.keys() == mean.keys()
    assert not any(torch.equal(latest[name], mean[name]) for name in mean)
    card = (checkpoint(run, 6) / "README.md").read_text(encoding="utf-8")
    assert "| weights | exponential moving average over the steps, decay 0.9 |" in card


def test_the_mean_is_metered_as_its_run_was(run: Path, tmp_path: Path) -> None:
    """The power is made up, the rest is not."""
    shutil.copytree(run, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    document = YAML(typ="safe").load(recipe)
    document["carbon"] |= {"enabled": True, "intensity_g_per_kwh": G_PER_KWH, "every_seconds": 0.5}
    YAML(typ="safe").dump(document, recipe)
    metered = fake_codecarbon.put_first(fake_codecarbon.write(tmp_path / "fake"))
    words = ["average", tmp_path / "run", "--last", "2", "--out", tmp_path / "mean", "--json"]
    found = run_tfkit(tmp_path, words, metered).exits(0).document
    assert (found["carbon_status"], found["energy_kwh"] > 0) == ("ok", True)
    assert found["emissions_g"] == pytest.approx(found["energy_kwh"] * G_PER_KWH)
    assert f"{G_PER_KWH:g} g/kWh" in found["place"]


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    there, mean = tmp_path / "there", tmp_path / "mean"
    there.mkdir()
    (there / "run.json").write_text("{}", encoding="utf-8")
    few = "--last 5 of its checkpoints, but complete checkpoints here are step-000003, "
    for words, code, said in (
        ([run, "--out", mean], 4, [few, "checkpoint.keep"]),
        ([run, "--last", "2", "--out", there], 2, ["is never overwritten"]),
        ([tmp_path, "--out", mean], 4, ["is not a run folder"]),
        ([there, "--out", mean], 4, ["has no checkpoints yet"]),
        ([run, "--last", "1", "--out", mean], 2, ["--last"]),
        ([run], 2, ["--out"]),
    ):
        run_here(["average", *words]).exits(code, *said)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("tfkit.json", "is not of the same run as step-000006: the run_id in tfkit.json differ"),
        ("model.safetensors", "only checkpoints of one model have a mean"),
        ("config.json", "is not of the same run as step-000006: config.json differ"),
        (None, "model.safetensors: damaged"),
    ],
)
def test_what_does_not_belong_together(run: Path, tmp_path: Path, file: str | None, said: str) -> None:
    """Another run, shape or config in a whole checkpoint; or a damaged one."""
    shutil.copytree(run, tmp_path / "run")
    copy = checkpoint(tmp_path / "run", 5)
    if file == "tfkit.json":
        (copy / file).write_text(json.dumps(read_json(copy / file) | {"run_id": "another"}), encoding="utf-8")
    elif file == "model.safetensors":
        edit_weights(copy, lambda tensors: tensors.update({name: tensor[:-1].clone() for name, tensor in [*tensors.items()][:1]}))
    elif file == "config.json":
        (copy / file).write_text((copy / file).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    else:
        flip(copy / "model.safetensors")
    if file:
        write_manifest(copy)
    run_here(["average", tmp_path / "run", "--last", "3", "--out", tmp_path / "mean"]).exits(4, said)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_disk_that_refuses_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", raising(OSError(28, os.strerror(28))))
    run_here(["average", run, "--last", "2", "--out", tmp_path / "mean"]).exits(5, "No space left on device")
    assert list(tmp_path.iterdir()) == []
