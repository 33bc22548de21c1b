"""The cost of metering: CPU time of the meter's process beside a real run, apart from its start, and of the meter within the trainer."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

import tfkit
from tfkit.carbon import Meter
from tfkit.recipe.schema.carbon_section import CarbonSection

RECIPE = """
model: {{preset: gpt2, decoder_layers: 2, dim: 64, num_heads: 2, context_length: 64}}
tokenizer: {{vocab_size: 1024}}
data: {{train: [{{path: {text}}}], validation: 0.1}}
training: {{steps: 1000000, batch_size: 8}}
checkpoint: {{every: {every}}}
evaluation: {{every: {every}, max_tokens: 2000}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run to measure, after CodeCarbon's start (default 60)")
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints, each with an evaluation (default 200)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        beside_a_run(Path(folder), arguments.seconds, arguments.every)
    within_the_trainer(arguments.seconds)


def beside_a_run(folder: Path, seconds: float, every: int) -> None:
    """Train on tfkit's own sources, measure the meter's process, and stop the run as Ctrl-C would."""
    text = json.dumps(str(Path(tfkit.__file__).parent / "**/*.py"))
    (folder / "tiny.yaml").write_text(RECIPE.format(text=text, every=every), encoding="utf-8")
    ledger = folder / "run/carbon/0-1.jsonl"
    command = [sys.executable, "-m", "tfkit", "pretrain", str(folder / "tiny.yaml"), "--run", str(folder / "run"), "--threads", "1"]
    environment = os.environ | {"TFKIT_CACHE": str(folder / "cache")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as trainer:
        while not any(line["kind"] == "machine" for line in lines(ledger)):
            time.sleep(0.1)
            if trainer.poll() is not None:
                sys.exit(f"the run ended with {trainer.returncode}: {' '.join(command)}")
        (meter,) = psutil.Process(trainer.pid).children()
        at_start, began = cpu_seconds(meter), time.monotonic()
        before = boundaries(ledger)
        time.sleep(seconds)
        used, lasted = cpu_seconds(meter) - at_start, time.monotonic() - began
        memory = meter.memory_info().rss / 2**20
        count = boundaries(ledger) - before
        trainer.send_signal(signal.SIGINT)
    print(f"the meter's process, to its first reading: {at_start:.2f} s of CPU, once; then {memory:.0f} MiB")
    print(f"from then on: {used:.3f} s of CPU in {lasted:.0f} s with {count} phases, {100 * used / lasted:.2f} % of the run's wall time")


def within_the_trainer(seconds: float) -> None:
    """Run the same meter in a process that does nothing else, with a phase a second."""
    with tempfile.TemporaryDirectory() as folder:
        meter = Meter.start(CarbonSection(), folder=Path(folder), run_id="benchmark", attempt=1, project="benchmark")
        began, cpu = time.monotonic(), time.process_time()
        while time.monotonic() - began < seconds:
            time.sleep(0.5)
            meter.phase("train")
            meter.reading()
        used, lasted = time.process_time() - cpu, time.monotonic() - began
        meter.stop()
    print(f"the meter within the trainer, two phases a second {used:.3f} s of CPU, {100 * used / lasted:.2f} % of the wall time")


def lines(ledger: Path) -> list[dict[str, object]]:
    """Return the complete lines of a ledger that may still be written."""
    try:
        return [json.loads(line) for line in ledger.read_text(encoding="utf-8").split("\n")[:-1]]
    except FileNotFoundError:
        return []


def boundaries(ledger: Path) -> int:
    """Count the changes of phase."""
    phases = [line["phase"] for line in lines(ledger) if line["kind"] == "tick"]
    return sum(now != before for now, before in zip(phases[1:], phases, strict=False))


def cpu_seconds(process: psutil.Process) -> float:
    """Return user and system time so far."""
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
