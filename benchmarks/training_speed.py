"""Training speed and peak memory of tfkit beside the Hugging Face Trainer, on the same shape, in turns.

    python benchmarks/training_speed.py small gpt2 --rounds 3 --steps 6

Each runner works in a process of its own. The Trainer's steps are timed one by one, without its first two. tfkit is timed as its
users start it: the slope between a run of 2 steps and one of 2 + STEPS, so that start-up and the checkpoint at the end drop out. Read
the ratios, not the times: the machine may be shared. Needs `pip install transformers accelerate`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
WARM_UP = 2
CASES = {
    "gpt2": {"vocab": 50257, "layers": 12, "dim": 768, "heads": 12, "length": 512, "rows": 2},
    "small": {"vocab": 8192, "layers": 6, "dim": 384, "heads": 6, "length": 256, "rows": 16},
}
RUNNERS = ("Trainer, defaults", "Trainer, bf16", "Trainer, bf16, no dropout", "tfkit")  # whose GPT-2 has no dropout, either


def train_with_transformers(case: dict[str, int], steps: int, *, bf16: bool, dropout: bool) -> None:
    """Train on random ids, in a child; print the seconds of each step after the warm-up."""
    import torch
    import transformers
    from datasets import Dataset

    torch.manual_seed(0)
    shape = {"vocab_size": case["vocab"], "n_positions": case["length"], "n_embd": case["dim"], "n_layer": case["layers"]}
    none = {} if dropout else {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    config = transformers.GPT2Config(**shape, n_head=case["heads"], **none)
    ids = torch.randint(case["vocab"], (case["rows"] * (WARM_UP + steps), case["length"])).tolist()
    times: list[float] = []

    class Marker(transformers.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=case["rows"],
            max_steps=WARM_UP + steps,
            use_cpu=True,
            bf16=bf16,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        transformers.Trainer(
            model=transformers.GPT2LMHeadModel(config),
            args=arguments,
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
            data_collator=transformers.default_data_collator,
            callbacks=[Marker()],
        ).train()
    print("SECONDS", json.dumps([after - before for before, after in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)]))


def run(command: list[str]) -> tuple[float, float, str]:
    """Return wall seconds, peak MiB and stdout of a process."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        text = out.read()
    if status:
        sys.exit(f"{' '.join(command)}: exit status {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, text


def sample(runner: str, name: str, steps: int) -> tuple[list[float], float]:
    """Return seconds per step, and peak MiB, of one more run."""
    if runner != "tfkit":
        _, peak, text = run([sys.executable, __file__, name, "--child", runner, "--steps", str(steps)])
        return json.loads(text.partition("SECONDS")[2]), peak
    walls = []
    for count in (WARM_UP, WARM_UP + steps):
        with tempfile.TemporaryDirectory() as folder:
            recipe = str(HERE / "recipes" / f"{name}.yaml")
            command = [sys.executable, "-m", "tfkit", "pretrain", recipe, "--quiet", "--run", f"{folder}/run", f"training.steps={count}"]
            wall, peak, _ = run(command)
            walls.append(wall)
    return [(walls[1] - walls[0]) / steps], peak


def main() -> None:
    """Take turns, then print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--child", choices=RUNNERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        runner = arguments.child
        train_with_transformers(CASES[arguments.cases[0]], arguments.steps, bf16="bf16" in runner, dropout="no dropout" not in runner)
        return
    for name in arguments.cases:
        seconds: dict[str, list[float]] = {runner: [] for runner in RUNNERS}
        peaks = dict.fromkeys(RUNNERS, 0.0)
        for _ in range(arguments.rounds):
            for runner in RUNNERS:
                found, peak = sample(runner, name, arguments.steps)
                seconds[runner] += found
                peaks[runner] = max(peaks[runner], peak)
        tokens = CASES[name]["rows"] * CASES[name]["length"]
        base, base_peak = statistics.median(seconds[RUNNERS[0]]), peaks[RUNNERS[0]]
        print(f"{name:8} {'runner':26} {'tokens/s':>9} {'ratio':>6} {'best':>6} {'peak MiB':>9} {'ratio':>6}")
        for runner in RUNNERS:
            median, best = statistics.median(seconds[runner]), min(seconds[runner])
            ratio, best_ratio = base / median, min(seconds[RUNNERS[0]]) / best
            shown = f"{tokens / median:9.0f} {ratio:6.2f} {best_ratio:6.2f} {peaks[runner]:9.0f} {peaks[runner] / base_peak:6.2f}"
            print(f"{name:8} {runner:26} {shown}")


if __name__ == "__main__":
    main()
