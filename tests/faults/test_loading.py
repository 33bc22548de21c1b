"""Damaged checkpoints: found before training, said, and an older one taken, with the same end; or refused."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from saved_runs import Base, contents, resumed_from
from tiny_files import flip, read_json
from tiny_runs import kept, run_here, strike

FILES = [
    *("model.safetensors", "training_state/optimizer.safetensors", "training_state/state.json", "config.json", "tokenizer.json"),
    *("tfkit.json", "manifest.json"),
]


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 2 // 3)


def assert_found(saved: Base, run: Path, file: Path) -> None:
    """`verify` names the file, and --exact refuses and changes nothing."""
    good, bad = run_here(["verify", run, "--json"]).exits(4).document["checkpoints"]
    assert good["verdict"] == "good"
    assert any(str(file) in problem for problem in bad["problems"])
    saved.run(run, "--resume", "--exact").refuses(4, str(file), "Without --exact the run resumes from an older one")
    assert kept(run) == ["step-000002", "step-000004"]


def assert_falls_back(saved: Base, run: Path, file: Path) -> None:
    """As `assert_found`, and without --exact the checkpoint before is taken, to the same end."""
    assert_found(saved, run, file)
    saved.run(run, "--resume").exits(0, f"warning: skipped a damaged checkpoint: {file}")
    assert resumed_from(run) == "step-000002"
    saved.assert_same(run)
    assert kept(run) == ["step-000004", "step-000006"], "the damaged one was made anew, and is gone"


def test_f09_the_newest_weights_are_cut_off(saved: Base, tmp_path: Path) -> None:
    file = saved.copy_killed(tmp_path / "run") / "step-000004" / "model.safetensors"
    cut_off(file)
    assert_falls_back(saved, tmp_path / "run", file)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", FILES)
def test_f10_one_bit_is_flipped(saved: Base, tmp_path: Path, name: str) -> None:
    file = saved.copy_killed(tmp_path / "run") / "step-000004" / name
    flip(file)
    named = file.parent if name == "manifest.json" else file  # its flipped checksum belongs to some file
    (assert_falls_back if name.startswith("training_state") else assert_found)(saved, tmp_path / "run", named)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "training_state/state.json"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_f11_a_file_is_missing_or_empty(saved: Base, tmp_path: Path, name: str, damage: str) -> None:
    file = saved.copy_killed(tmp_path / "run") / "step-000004" / name
    file.unlink() if damage == "missing" else os.truncate(file, 0)
    (assert_falls_back if name == "manifest.json" else assert_found)(saved, tmp_path / "run", file)


def test_f11_a_file_too_many_is_reported_and_does_no_harm(saved: Base, tmp_path: Path) -> None:
    extra = saved.copy_killed(tmp_path / "run") / "step-000004" / "notes.txt"
    extra.touch()
    assert f"{extra}: is not in the manifest" in run_here(["verify", tmp_path / "run"]).exits(0).out
    saved.run(tmp_path / "run", "--resume", "--exact").exits(0)
    assert resumed_from(tmp_path / "run") == "step-000004"
    saved.assert_same(tmp_path / "run")


def test_f09_f10_f11_all_are_damaged(saved: Base, tmp_path: Path) -> None:
    """Nothing is deleted or moved: the files may be restored."""
    root = saved.copy_killed(tmp_path / "run")
    cut_off(root / "step-000002" / "model.safetensors")
    flip(root / "step-000004" / "training_state" / "optimizer.safetensors")
    before = contents(root)
    saved.run(tmp_path / "run", "--resume").refuses(4, "step-000002/model.safetensors", "step-000004/training_state/optimizer.safetensors")
    assert contents(root) == before
    run_here(["verify", tmp_path / "run"]).exits(4)
    for name in ("step-000002", "step-000004"):
        shutil.copytree(saved.killed / "checkpoints" / name, root / name, dirs_exist_ok=True)
    saved.assert_ends_the_same(tmp_path / "run")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stop_after", [3, 4])
def test_f10_what_is_saved_after_the_fall_back_is_not_pruned_for_the_damaged_one(saved: Base, tmp_path: Path, stop_after: int) -> None:
    """Even where one checkpoint is kept, and the damaged one has the higher number."""
    run, one = tmp_path / "run", "checkpoint={every: 2, keep: 1}"
    flip(saved.copy_killed(run) / "step-000004" / "model.safetensors")
    done = saved.run(run, "--resume", one, before=strike(signal.SIGTERM, 2 * (stop_after - 2)))
    done.exits(143, f"stopped after step {stop_after} of 6; its checkpoint is saved")
    saved.run(run, "--resume", "--exact", one).exits(0)
    assert resumed_from(run) == f"step-{stop_after:06d}"
    saved.assert_same(run)


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("words", [["evaluate"], ["generate", "--prompt", "the", "--max-new-tokens", "2"]], ids=lambda words: words[0])
def test_f09_f11_a_run_folder_with_an_incomplete_newest_or_best(saved: Base, tmp_path: Path, words: list[str]) -> None:
    """They take the best complete checkpoint, else the newest complete one."""
    run = tmp_path / "run"
    shutil.copytree(saved.unbroken, run)
    words = [*words, "--threads", "1", "--json", "carbon.enabled=false", "--from"]
    best = read_json(run / "checkpoints" / "best.json")["step"]
    other = next(run / "checkpoints" / name for name in kept(run) if name != f"step-{best:06d}")
    cut_off(run / "checkpoints" / f"step-{best:06d}" / "model.safetensors")
    done = run_here([*words, run]).exits(0, f"its best checkpoint, of step {best}, is not complete here; {other.name} is used")
    assert done.out == run_here([*words, other]).exits(0).out
    (other / "manifest.json").unlink()
    assert run_here([*words, run]).exits(4, "no complete checkpoint").document["error"]["code"] == 4


@pytest.mark.sampled(3)
@pytest.mark.parametrize("command", ["evaluate", "generate", "finetune", "distil", "inspect"])
def test_f10_one_bit_of_a_named_checkpoint_is_flipped(saved: Base, tmp_path: Path, command: str) -> None:
    """Every command that reads a model compares it with its manifest; --no-verify reads it as it is."""
    folder = saved.copy_killed(tmp_path / "run") / "step-000004"
    flip(folder / "model.safetensors")
    corpus, few = saved.folder / "corpus", ["training={steps: 2, batch_size: 2, precision: fp32}", "carbon.enabled=false"]
    (tmp_path / "tuned.yaml").write_text(f"model: {{from: {folder}}}\ndata: {{train: [{{path: {corpus}}}]}}\n", encoding="utf-8")
    taught = [f"tokenizer={{path: {folder}}}", f"objective={{kind: distillation, teacher: {folder}, of: {{kind: causal_lm}}}}"]
    words = {
        "evaluate": ["evaluate", "--from", folder, "--data", corpus, "carbon.enabled=false", "--threads", "1"],
        "generate": ["generate", "--from", folder, "--prompt", "the", "carbon.enabled=false", "--threads", "1"],
        "finetune": ["finetune", tmp_path / "tuned.yaml", "--run", tmp_path / "tuned", "--threads", "1", *few],
        "distil": ["pretrain", saved.recipe, "--run", tmp_path / "taught", "--threads", "1", *few, *taught],
        "inspect": ["inspect", saved.recipe, *few, *taught],
    }[command]
    run_here(words).refuses(4, f"{folder / 'model.safetensors'}: damaged: its SHA-256 is not that of manifest.json")
    shutil.rmtree(tmp_path / "tuned", ignore_errors=True)
    run_here([*words, "--no-verify"]).exits(0)
