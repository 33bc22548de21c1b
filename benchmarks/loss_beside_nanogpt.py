"""The loss that nanoGPT in bf16 reaches in a time, and the loss that tfkit with Muon reaches in a quarter of it: 14 M parameters, one text.

    python benchmarks/loss_beside_nanogpt.py --nanogpt NANOGPT --seconds 360
    python benchmarks/loss_beside_nanogpt.py --nanogpt NANOGPT --steps 237 78    # on a busy machine, by the steps that fit into the times
    python benchmarks/loss_beside_nanogpt.py --nanogpt NANOGPT --settings        # of tfkit alone

Both train a decoder of width 384 and 8,192 entries on the training files of {stdlib: true}, and are scored on rows of 256 tokens spread
evenly over its held-out files, in float32. nanoGPT's has 6 layers and 13.8 M parameters, reads rows of 256 tokens, which it draws as its
train.py does, and takes the rates and numbers of rows of --settings in turn, with a cosine decay to a tenth. tfkit's has 4 layers, an
output matrix of its own and 13.5 M, scaled embeddings and rotary positions, reads 32 rows of 128, and takes --seeds. NANOGPT is a clone.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tfkit
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.data.store.token_stream import token_stream
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.training.step import Stepper

LENGTH, SHORT, VOCABULARY, SCORED, PARTS = 256, 128, 8192, 64, 4
TIMED, WARM_UP = 8, 2  # steps
SETTINGS = ["1e-3:16", "1e-3:8", "2e-3:8"]
SOURCES: dict[str, Any] = {"train": [{"stdlib": True}], "validation": [{"stdlib": True}]}
RECIPE: dict[str, Any] = {
    "model": {
        "preset": "gpt2",
        "decoder_layers": 4,
        "dim": 384,
        "num_heads": 6,
        "context_length": LENGTH,
        "position": {"kind": "rotary", "theta": 1e4},
        "vocab_size": VOCABULARY,
        "embedding": {"scale": True},
        "head": {"kind": "lm", "tied": False},
    },
    "tokenizer": {"kind": "byte_bpe", "vocab_size": VOCABULARY},
    "data": {"train": SOURCES["train"], "sequence_length": SHORT},
    "optimizer": {"kind": "muon", "lr": 2e-2, "adamw_lr": 1e-2},
    "training": {"batch_size": 32, "log_every": 1000000},
}
Model = Callable[[Tensor, Tensor], float]  # ids and the next ones -> the mean loss
Cost = tuple[float, float]  # seconds, and seconds of processor


def now() -> Cost:
    """Return both clocks."""
    return time.perf_counter(), time.process_time()


def step_cost(moments: Sequence[tuple[Cost, Cost]]) -> Cost:
    """Return the medians of a step, without the first ones; `moments`: the beginning and the end of each."""
    costs = [(end[0] - begin[0], end[1] - begin[1]) for begin, end in moments[WARM_UP:] or moments]
    return statistics.median(wall for wall, _ in costs), statistics.median(processor for _, processor in costs)


def train_ours(folder: Path, steps: int, seed: int = 1) -> tuple[Path, Cost]:
    """Train in a run folder; return it, and the cost of a step."""
    moments: list[tuple[Cost, Cost]] = []
    take = Stepper.take

    def timed(*words: Any, **options: Any) -> Any:
        begin = now()
        report = take(*words, **options)
        moments.append((begin, now()))
        return report

    Stepper.take = timed  # type: ignore[method-assign]
    schedule = {"kind": "linear", "warmup_steps": steps // 10}
    try:
        tfkit.pretrain(RECIPE | {"schedule": schedule}, {"training.steps": steps, "training.seed": seed}, run=str(folder))
    finally:
        Stepper.take = take  # type: ignore[method-assign]
    return folder, step_cost(moments)


def train_nanogpt(source: str, tokens: Any, steps: int, rate: float, rows: int) -> tuple[Any, Cost]:
    """Train nanoGPT's model by the loop of its train.py in bf16; return it, and the cost of a step."""
    sys.path.insert(0, source)
    nanogpt = importlib.import_module("model")
    torch.manual_seed(1)
    config = nanogpt.GPTConfig(block_size=LENGTH, vocab_size=VOCABULARY, n_layer=6, n_head=6, n_embd=384, dropout=0.0, bias=False)
    model = nanogpt.GPT(config)
    groups = [
        {"params": [one for one in model.parameters() if one.dim() >= 2], "weight_decay": 0.1},
        {"params": [one for one in model.parameters() if one.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True)
    warm_up, moments = max(1, steps // 20), list[tuple[Cost, Cost]]()
    for step in range(steps):
        begin = now()
        part = (step - warm_up) / max(1, steps - warm_up)
        factor = (step + 1) / warm_up if step < warm_up else 0.1 + 0.45 * (1 + float(np.cos(np.pi * part)))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        places = torch.randint(len(tokens) - LENGTH, (rows,)).tolist()
        ids = torch.stack([torch.from_numpy(tokens[place : place + LENGTH + 1].astype(np.int64)) for place in places])
        with torch.autocast("cpu", torch.bfloat16):
            _, loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        moments.append((begin, now()))
    return model.eval(), step_cost(moments)


def score(model: Model, tokens: Any) -> float:
    """Return the mean loss of the tokens of some rows, evenly spread."""
    places = np.linspace(0, len(tokens) - LENGTH - 1, SCORED).astype(np.int64)
    rows = torch.from_numpy(np.stack([tokens[place : place + LENGTH + 1] for place in places]).astype(np.int64))
    pairs = zip(rows[:, :-1].split(8), rows[:, 1:].split(8), strict=True)
    with torch.no_grad():
        return statistics.fmean(model(ids, targets) for ids, targets in pairs)


def loss_of_nanogpt(model: Any) -> Model:
    """Return the loss of a trained model."""
    return lambda ids, targets: float(model(ids.contiguous(), targets.contiguous())[1])


def loss_of_ours(folder: Path) -> Model:
    """Return the loss of a finished run."""
    model = tfkit.load(folder).model.eval()
    return lambda ids, targets: float(torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten()))


def report(name: str, steps: int, step: Cost, loss: float) -> None:
    """Print a line for a training."""
    seconds, processor = (steps * one for one in step)
    print(f"{name}: {steps} steps, {seconds:.0f} s, of processor {processor:.0f} s, held-out loss {loss:.3f}", flush=True)


def main() -> None:
    """Time the steps, train, and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", required=True, help="a clone")
    parser.add_argument("--seconds", type=float, default=360, help="of nanoGPT's training; tfkit's has a quarter (default 360)")
    parser.add_argument("--steps", type=int, nargs=2, metavar="N", help="of nanoGPT and of tfkit, in place of --seconds")
    parser.add_argument("--settings", nargs="*", default=SETTINGS, metavar="RATE:ROWS", help=f"of nanoGPT (default {' '.join(SETTINGS)})")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="of tfkit (default 1 2 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, ours = train_ours(Path(temporary, "first"), 1 if arguments.steps else TIMED)
        tokenizer, data = tfkit.load(folder).require_tokenizer(), DataSection.model_validate(SOURCES)
        tokens, held_out = (token_stream(one, tokenizer).tokens for (one,) in (training_sources(data), validation_sources(data)))
        for setting in arguments.settings:
            rate, rows = float(setting.partition(":")[0]), int(setting.partition(":")[2])
            count = arguments.steps[0] if arguments.steps else None
            if count is None:
                count = int(arguments.seconds / train_nanogpt(arguments.nanogpt, tokens, TIMED, rate, rows)[1][0])
            model, step = train_nanogpt(arguments.nanogpt, tokens, count, rate, rows)
            report(f"nanoGPT, rate {rate:g}, {rows} rows", count, step, score(loss_of_nanogpt(model), held_out))
        count = arguments.steps[1] if arguments.steps else int(arguments.seconds / PARTS / ours[0])
        for seed in arguments.seeds:
            folder, step = train_ours(Path(temporary, f"seed{seed}"), count, seed)
            report(f"tfkit, seed {seed}, {torch.get_num_threads()} threads", count, step, score(loss_of_ours(folder), held_out))


if __name__ == "__main__":
    main()
