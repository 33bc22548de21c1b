"""A tiny BERT and a tiny task for the scripts of benchmarks/, and the scripts as processes."""

import os
import random
import subprocess
import sys
from pathlib import Path

from tiny_files import write_rows

ROOT = Path(__file__).parents[2]
BERT = """# A tiny BERT.
model: {preset: bert-tiny, dim: 16, num_heads: 2, context_length: 16}
tokenizer: {kind: wordpiece, vocab_size: 120}
data: {train: [{path: TEXT}]}
objective: {kind: masked_lm}
training: {steps: 2, batch_size: 4}
carbon: {enabled: false}
"""
TASK = """# A tiny task.
model: {from: runs/bert, dropout: {attention: 0.0}}
data: {train: [{path: labelled.jsonl}], validation: 0.3}
objective: {kind: classification}
optimizer: {lr: 1e-2}
schedule: {kind: linear, warmup_steps: 5}
training: {epochs: 1, batch_size: 4, precision: fp32}
evaluation: {every: 1}
"""


def write_task(folder: Path) -> None:
    """Write text, labelled rows, and two recipes."""
    draw = random.Random(1)
    rows = [{"text": " ".join(draw.choices(["the", "cat", "dog", "sat"], k=6)), "label": "good" if n % 3 else "bad"} for n in range(60)]
    write_rows(folder / "labelled.jsonl", rows)
    (folder / "text.txt").write_text("\n".join(row["text"] for row in rows), encoding="utf-8")
    (folder / "bert.yaml").write_text(BERT.replace("TEXT", str(folder / "text.txt")), encoding="utf-8")
    (folder / "task.yaml").write_text(TASK, encoding="utf-8")


def script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these words, in the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TFKIT_CACHE": str(folder / "cache")}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
