"""Whole runs of tfkit on the tested device: forks on the CPU; with a GPU, which no fork can use, separate programs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from fake_codecarbon import wait_for_the_end
from tiny_runs import Done, run_tfkit, strike

from tfkit.objectives.objective import Batch
from tfkit.training.step import Stepper

MIB = 2**20
TRAINED = """
# A run on a device.
model: {preset: llama-7b, decoder_layers: 2, dim: 48, num_heads: 6, num_kv_heads: 2, context_length: 32, dropout: {residual: 0.1}}
tokenizer: {vocab_size: 300}
data: {train: [{path: CORPUS}], validation: 0.3}
schedule: {warmup_steps: 2}
training: {steps: 8, batch_size: 4, log_every: 1}
evaluation: {every: 4, max_tokens: 300}
generation: {prompts: ["the cat"], max_new_tokens: 5, temperature: 0.8, top_p: 0.9}
carbon: {enabled: false}
"""


def write_recipe(folder: Path, corpus: Path, text: str = TRAINED) -> Path:
    path = folder / "device.yaml"
    path.write_text(text.replace("CORPUS", str(corpus)), encoding="utf-8")
    return path


def run(device: torch.device, folder: Path, *words: str, fault: tuple[str, int] | None = None) -> Done:
    """Run tfkit with these words on the device; `fault`: the name of one of FAULTS, and its number."""
    arguments = [*words, "--device", str(device), "--threads", "1"]
    if device.type == "cpu":
        return run_tfkit(folder, arguments, None if fault is None else FAULTS[fault[0]](device, fault[1]))
    lines = ["import sys", "import torch", "import device_runs", "from tfkit.__main__ import main"]
    if fault is not None:
        lines.append(f"device_runs.FAULTS[{fault[0]!r}](torch.device({str(device)!r}), {fault[1]})()")
    program = "\n".join([*lines, f"sys.exit(main({arguments!r}))"])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=900, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def _little_memory(device: torch.device, rows: int) -> Any:
    """Limit memory below a step of all rows: on a GPU by a real limit; on the CPU by an error beyond this many rows."""

    def limit() -> None:
        if device.type == "cuda":
            whole = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(256 * MIB / whole, device)
            return
        accumulate = Stepper._accumulate

        def limited(self: Stepper, step: int, index: int, batch: Batch, *arguments: Any) -> Any:
            if len(batch.input_ids) > rows:
                raise torch.OutOfMemoryError("out of memory, as the test has it")
            return accumulate(self, step, index, batch, *arguments)

        Stepper._accumulate = limited

    return limit


FAULTS: dict[str, Any] = {
    "stop": lambda device, forward: strike(15, forward),  # SIGTERM as the micro-batch of this number begins
    "little memory": _little_memory,
    "busy": lambda device, number: wait_for_the_end,  # a machine on which the meter starts late, so that the run waits for it at its end
}
