"""The exit codes of docs/cli.md: for each code, each command that can end so does, by a real thing that is done to it.

7 (a budget) and 9 (a peer) are still to come; 1, a bug, is in tests/cli/test_exit_codes.py.
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Done, pretrain, run_tfkit, strike

from tfkit.cli import COMMANDS
from tfkit.model.transformer import Transformer
from tfkit.run.folder import RunFolder


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """Files that the command lines name: a recipe, its corpus, prompts, a finished run, one that was stopped, and things that are wrong."""
    pretrain(base / "run", base / "tiny.yaml").exits(0)
    pretrain(base / "stopped", base / "tiny.yaml", before=strike(signal.SIGTERM, 4)).exits(143)
    shutil.copytree(base / "stopped", base / "damaged")
    os.truncate(base / "damaged" / "checkpoints" / "step-000004" / "model.safetensors", 100)
    for path, content in {
        "pickles/config.json": b'{"model_type": "gpt2"}',
        "pickles/pytorch_model.bin": b"\x80\x04.",
        "file": b"",
        "empty/a.txt": b"",
        "latin1.txt": b"Stra\xdfe",
        "prompts.txt": b"the\na\n",
    }.items():
        (base / path).parent.mkdir(exist_ok=True)
        (base / path).write_bytes(content)
    return base


def run(base: Path, folder: Path, line: str, before: Callable[[], object] | None = None) -> Done:
    """A command line in the base folder; `new` is a run folder that is not there yet. Quiet, so that stderr holds what went wrong alone."""
    words = [str(folder / "new") if word == "new" else word for word in line.split(" ")]
    words += ["--quiet"] if words[0] in COMMANDS and "--foo" not in words else []
    with contextlib.chdir(base):
        return run_tfkit(folder, words, before)


def assert_ends(done: Done, code: int, said: str, lines: int = 1) -> None:
    assert len(done.exits(code, said).err.splitlines()) == lines, done.err


def assert_refused(done: Done, code: int, said: str, lines: int = 1) -> None:
    """As `assert_ends`, and there is no result."""
    assert_ends(done.refuses(code), code, said, lines)


PRETRAIN, EVALUATE, GENERATE = "pretrain tiny.yaml --threads 1 --run new", "evaluate --from run", "generate --from run --prompt the"
RESUME = "resume new --threads 1"
NO_CARBON = "carbon.enabled=false"


@pytest.mark.parametrize(
    "line",
    [
        *(f"{PRETRAIN} training.steps=2", f"{EVALUATE} {NO_CARBON}", f"{GENERATE} {NO_CARBON} --max-new-tokens 2", "check tiny.yaml"),
        *("verify run", "recipes", "recipes demo", "env", "check --schema", "--version"),
        *("pretrain tiny.yaml --run run --resume", "resume run"),
        f"{EVALUATE} {NO_CARBON} --run new",
        f"{GENERATE} {NO_CARBON} --max-new-tokens 2 --run new",
    ],
)
def test_f07_0_done(base: Path, tmp_path: Path, line: str) -> None:
    done = run(base, tmp_path, line)
    assert_ends(done, 0, "", lines=0)
    assert done.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pretrain gone.yaml", "gone.yaml: no such file, and no bundled recipe has this name"),
        (f"{PRETRAIN} training.stps=3", "command line: training.stps: unknown, did you mean steps"),
        (f"{PRETRAIN} carbon.country=XYZ", "XYZ"),
        ("pretrain tiny.yaml --run run", "holds checkpoints of an earlier run"),
        ("pretrain tiny.yaml --run stopped --resume training.seed=2", "training.seed: 1 in the run, 2 now"),
        ("resume stopped training.seed=2", "training.seed: 1 in the run, 2 now"),
        ("resume stopped training.steps=2", "this run has taken 4 steps"),
        ("resume stopped training.stps=3", "training.stps: unknown, did you mean steps"),
        ("resume gone", "gone: there is no run to continue here"),
        (f"{EVALUATE} --fail-if bleu>3", "bleu"),
        (f"{EVALUATE} --fail-if loss", "loss"),
        (f"{EVALUATE} training.steps=3", "this command reads only the sections"),
        (f"{EVALUATE} evaluation.batch_size=0", "command line: evaluation.batch_size: must be greater than 0"),
        (f"{EVALUATE} tiny.yaml demo", "evaluate takes one recipe"),
        ("generate --from run", "generate takes exactly one of --prompt TEXT"),
        (f"{GENERATE} --top-p 3", "command line: generation.top_p: must be at most 1"),
        (f"{GENERATE} model.dim=3", "this command reads only the sections"),
        ("check gone.yaml", "no such file"),
        ("check tiny.yaml a.b=1", "command line: a: unknown"),
        ("check", "which RECIPE?"),
        ("recipes gone", "no bundled recipe has this name"),
    ],
)
def test_f32_f39_f51_2_usage_or_recipe(base: Path, tmp_path: Path, line: str, said: str) -> None:
    done = run(base, tmp_path, line)
    assert_refused(done, 2, said, lines=len(done.err.splitlines()) if "in the run" in said else 1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_f32_2_an_option_that_there_is_not(base: Path, tmp_path: Path, command: str) -> None:
    run(base, tmp_path, f"{command} --foo").refuses(2, "--foo")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f'{PRETRAIN} data.train=[{{"path":"gone"}}]', "gone"),
        (f'{PRETRAIN} data.train=[{{"path":"empty"}}]', "empty"),
        (f'{PRETRAIN} data.train=[{{"path":"latin1.txt"}}] data.validation=null evaluation.every=null', "latin1.txt"),
        (f"{EVALUATE} {NO_CARBON} --data gone", "gone"),
        (f"{EVALUATE} {NO_CARBON} --data latin1.txt", "latin1.txt"),
        (f"{EVALUATE} {NO_CARBON} --data empty", "empty"),
        ("generate --from run --input gone.jsonl", "gone.jsonl"),
        ("generate --from run --input empty/a.txt", "there is no prompt"),
        ("generate --from run --input latin1.txt", "latin1.txt:1:5: not UTF-8"),
    ],
)
def test_f36_3_data(base: Path, tmp_path: Path, line: str, said: str) -> None:
    assert_refused(run(base, tmp_path, line), 3, said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f'{PRETRAIN} tokenizer={{"path":"empty"}}', "tokenizer.json"),
        ("evaluate --from gone", "gone"),
        ("evaluate --from empty", "empty"),
        ("evaluate --from pickles --data corpus", "pickles"),
        ("evaluate --from damaged", "damaged"),
        ("generate --from gone --prompt the", "gone"),
        (f"generate --from pickles --prompt the {NO_CARBON}", "pickles"),
        ("generate --from damaged --prompt the", "damaged"),
        ("replay run", "run"),
        ("replay gone", "gone"),
        ("verify gone", "gone"),
        ("verify empty", "empty"),
        ("verify damaged", "model.safetensors"),
        (f"{PRETRAIN} --resume --exact", "model.safetensors"),
        (f"{RESUME} --exact", "model.safetensors"),
    ],
)
def test_f09_f11_f13_4_model(base: Path, tmp_path: Path, line: str, said: str) -> None:
    if line.endswith("--exact"):
        shutil.copytree(base / "damaged", tmp_path / "new")
    done = run(base, tmp_path, line)
    assert_ends(done, 4, said)
    assert (done.out == "") == (line not in ("verify damaged", "verify empty")), "the verdict is the result of verify"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pretrain tiny.yaml --run file", "cannot be a run folder"),
        (f"{PRETRAIN} --device cuda:99", "cuda"),
        (f"{RESUME} --device cuda:99", "cuda"),
        (f"{EVALUATE} --run file/run", "cannot be a run folder (Not a directory). Give a folder that can be written with --run"),
        (f"{EVALUATE} --device cuda:99 {NO_CARBON}", "cuda"),
        (f"{EVALUATE} --predictions gone/x.jsonl", "does not exist; make it first"),
        (f"{GENERATE} --run file/run", "cannot be a run folder (Not a directory). Give a folder that can be written with --run"),
        (f"{GENERATE} --device cuda:99 {NO_CARBON}", "cuda"),
    ],
)
def test_f17_5_environment(base: Path, tmp_path: Path, line: str, said: str) -> None:
    if line.startswith("resume"):
        shutil.copytree(base / "stopped", tmp_path / "new")
    assert_refused(run(base, tmp_path, line), 5, said)


def test_f17_5_a_cache_that_cannot_be_written(base: Path, tmp_path: Path) -> None:
    done = run(base, tmp_path, PRETRAIN, before=lambda: os.environ.__setitem__("TFKIT_CACHE", "/proc/cache"))
    assert_ends(done, 5, "TFKIT_CACHE=/proc/cache: this folder cannot be made or written")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
@pytest.mark.parametrize(
    "line",
    [
        *(f"{PRETRAIN} training.steps=2", f"{EVALUATE} {NO_CARBON}", f"{GENERATE} {NO_CARBON}"),
        *(f"{EVALUATE} {NO_CARBON} --json", f"generate --from run --input prompts.txt --max-new-tokens 2 {NO_CARBON}"),
        *("check demo", "recipes", "env", "verify run", "resume run"),
    ],
)
def test_f16_5_a_result_that_cannot_be_written(base: Path, tmp_path: Path, line: str) -> None:
    done = run(base, tmp_path, line, before=lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), sys.stdout.fileno()))
    assert_ends(done, 5, "the result cannot be written to stdout: No space left on device")


def test_f44_5_a_run_folder_in_use(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "stopped", tmp_path / "new")
    with RunFolder.open(tmp_path / "new", resume=True, command=[]):
        for line in (PRETRAIN, RESUME, f"{EVALUATE} {NO_CARBON} --run new", f"{GENERATE} {NO_CARBON} --run new"):
            assert_ends(run(base, tmp_path, line), 5, f"this run folder is in use by process {os.getpid()}")
        shutil.rmtree(tmp_path / "new" / "checkpoints")
        assert_ends(run(base, tmp_path, RESUME), 5, "in use by another process, which has saved no checkpoint yet")


def test_f20_6_unhealthy(base: Path, tmp_path: Path) -> None:
    """Weights so large that the very first loss is not a number, and nobody has to raise anything."""
    run(base, tmp_path, f"{PRETRAIN} model.init.std=1e30").refuses(6, "step 1")


def test_f51_8_a_quality_gate(base: Path, tmp_path: Path) -> None:
    done = run(base, tmp_path, f"{EVALUATE} {NO_CARBON} --fail-if bits_per_byte<1000")
    assert_ends(done, 8, "bits_per_byte")
    assert "perplexity" in done.out, "the result is given all the same"


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("line", [PRETRAIN, RESUME, f"{EVALUATE} {NO_CARBON}", f"{GENERATE} {NO_CARBON}"])
def test_f03_f06_f08_129_130_143_signals(base: Path, tmp_path: Path, line: str, number: int, code: int) -> None:
    if line == RESUME:
        shutil.copytree(base / "stopped", tmp_path / "new")
    done = run(base, tmp_path, line, before=strike(number, 1, Transformer, "forward").__call__)  # a fork: its stderr is a file
    name, at_a_place_of_its_own = signal.Signals(number).name, not line.startswith(EVALUATE)  # which ends where the signal strikes
    if line == PRETRAIN:  # which measures the memory of a row first; and the command that continues
        assert_ends(done, code, f"stopped by {name}: no step was taken", lines=3)
    elif line == RESUME:  # which first makes up for the evaluation that the first signal prevented
        assert_ends(done, code, "its checkpoint is saved", lines=3)
    else:
        assert_ends(done, code, f"stopped by {name}", lines=1 + at_a_place_of_its_own)
    assert done.err.startswith(f"{name}: stopping as soon as nothing is lost") == at_a_place_of_its_own
    assert done.out == ""
    if line in (PRETRAIN, RESUME):
        again = f"pretrain tiny.yaml --run {tmp_path / 'new'} --resume" if line == PRETRAIN else f"resume {tmp_path / 'new'}"
        assert done.err.splitlines()[-1] == f"tfkit {again} --threads 1"
