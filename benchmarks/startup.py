"""Time the start of processes, in rounds: the light commands, and the commands that compute beside `python -c "import torch"`.

    python benchmarks/startup.py                # the light commands, beside a bare Python and the import of typer alone
    python benchmarks/startup.py --computing    # a second pretraining of 14M parameters until its first step, and predict until its answer

The second pretraining finds its tokenizer and its tokens in the cache. Its first step is timed when it begins, and when it is taken.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

PYTHON = sys.executable
LIGHT = {
    "python -c pass": [PYTHON, "-c", "pass"],
    "import typer": [PYTHON, "-c", "import typer"],
    "import pydantic": [PYTHON, "-c", "import pydantic"],
    "tfkit --help": [PYTHON, "-m", "tfkit", "--help"],
    "tfkit recipes": [PYTHON, "-m", "tfkit", "recipes"],
    "tfkit check gpt2-stdlib": [PYTHON, "-m", "tfkit", "check", "gpt2-stdlib"],
}
TORCH = "import torch"
RECIPE = """\
model: {preset: gpt2, dim: 384, decoder_layers: 6, num_heads: 6, context_length: 256}
tokenizer: {kind: byte_bpe, vocab_size: 8192}
data: {train: [{path: 'text/*.py'}]}
objective: {kind: causal_lm}
training: {steps: 1, batch_size: 16}
"""
FIRST_STEP = """\
import os, sys
from tfkit.__main__ import main
from tfkit.training.step import Stepper

def take(*words, **options):
    if sys.argv[1] == "begins":
        os.write(1, b".")
    report = inner(*words, **options)
    if sys.argv[1] == "is taken":
        os.write(1, b".")
    return report

inner, Stepper.take = Stepper.take, take
sys.exit(main(sys.argv[2:]))
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command without output; return its wall time in seconds and its peak memory in MiB."""
    nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    start = time.perf_counter()
    process = os.posix_spawn(command[0], command, os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}; run it by hand to see why")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return seconds, usage.ru_maxrss / unit


def until_output(command: list[str]) -> float:
    """Run a command to its end; return the seconds until the first byte of its output."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}; run it by hand to see why")
    return seconds


def time_light_commands(runs: int) -> None:
    """Print the wall time and the memory of each light command."""
    for command in LIGHT.values():
        measure(command)
    # In rounds, so that a drift of the machine affects every command.
    rounds = [{name: measure(command) for name, command in LIGHT.items()} for _ in range(runs)]
    print("| command | median s | least s | peak MiB |\n| --- | --- | --- | --- |")
    for name in LIGHT:
        seconds = [measured[name][0] for measured in rounds]
        peak = max(measured[name][1] for measured in rounds)
        print(f"| `{name}` | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {peak:.0f} |")


def computing_commands() -> dict[str, list[str]]:
    """Prepare the current folder for them: a text, a classifier, a row to predict, and a filled cache."""
    Path("text").mkdir()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:80]:
        shutil.copy(file, "text")
    Path("r.yaml").write_text(RECIPE, encoding="utf-8")
    rows = [{"text": f"this is {label}, number {number}", "label": label} for number in range(20) for label in ("good", "bad")]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("row.jsonl").write_text('{"text": "this is good"}\n', encoding="utf-8")
    for words in (["pretrain", "r.yaml", "--run", "base"], ["finetune", "--from", "base", "--data", "rows.jsonl", "--run", "classifier"]):
        measure([PYTHON, "-m", "tfkit", *words, "training.steps=1"])
    pretrain = ["pretrain", "r.yaml", "--run", "run"]
    return {
        f"pretrain, until the first step {moment}": [PYTHON, "-c", FIRST_STEP, moment, *pretrain] for moment in ("begins", "is taken")
    } | {"predict of one row, until its answer": [PYTHON, "-m", "tfkit", "predict", "--from", "classifier", "--data", "row.jsonl"]}


def time_computing_commands(runs: int) -> None:
    """Print the time of each command that computes, and its ratio to the import of torch in the same round."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["TFKIT_CACHE"] = str(Path(folder, "cache"))
        commands, rounds = computing_commands(), []
        for _ in range(runs + 1):  # the first one warms up
            rounds.append({TORCH: measure([PYTHON, "-c", TORCH])[0]})
            for name, command in commands.items():
                shutil.rmtree("run", ignore_errors=True)
                rounds[-1][name] = until_output(command)
        os.chdir(os.sep)
    print("| command | median s | least s | of import torch |\n| --- | --- | --- | --- |")
    for name in (TORCH, *commands):
        seconds = [one[name] for one in rounds[1:]]
        ratio = statistics.median(one[name] / one[TORCH] for one in rounds[1:])
        print(f"| `{name}` | {statistics.median(seconds):.3f} | {min(seconds):.3f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="processes a command, after one to warm up (default 9)")
    parser.add_argument("--computing", action="store_true", help="time the commands that compute")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as its users run it, with compiled modules
    os.chdir(Path(__file__).parent)  # so that -m finds the installed tfkit
    (time_computing_commands if arguments.computing else time_light_commands)(arguments.runs)


if __name__ == "__main__":
    main()
