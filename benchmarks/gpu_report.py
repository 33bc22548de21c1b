"""A report of tfkit on a GPU, as one file to send: the tests marked gpu, then tokens a second, MFU and memory beside a plain PyTorch loop.

    make gpu                    # the best device that there is
    make gpu DEVICE=cpu         # the same, with tiny shapes, where there is no GPU

Writes gpu-report.md into the current folder, again after each part, so that a part that hangs loses nothing before it. Every row of the
table is a process of its own. Under ten minutes on a GPU.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path("gpu-report.md")
WARM_UP, SECONDS = 3, 6.0  # steps that are not timed; of the timed ones, which are at least 3
TESTS_LIMIT, ROW_LIMIT, LIMIT = 330, 90, 590  # seconds after which the tests, a row of the table, or everything is abandoned
SHAPES = {  # kv_heads 0: GPT-2
    "GPT-2 124M": {"vocab": 50304, "layers": 12, "dim": 768, "heads": 12, "kv_heads": 0, "hidden": 3072, "length": 1024, "rows": 16},
    "Llama 125M": {"vocab": 32000, "layers": 12, "dim": 768, "heads": 12, "kv_heads": 4, "hidden": 2048, "length": 1024, "rows": 16},
}
TINY = {"vocab": 512, "layers": 2, "dim": 64, "heads": 4, "length": 64, "rows": 4}
RUNNERS = {  # for each: whether it is tfkit's, compiled, and masks the documents of a row from each other (tfkit's default)
    "plain PyTorch": (False, False, False),
    "tfkit": (True, False, False),
    "tfkit, documents apart": (True, False, True),
    "plain PyTorch, compiled": (False, True, False),
    "tfkit, compiled": (True, True, False),
}


def shape_of(name: str, device: str) -> dict[str, int]:
    """Return the shape, tiny on a CPU."""
    shape = SHAPES[name]
    return {**shape, **TINY, "kv_heads": 2 if shape["kv_heads"] else 0, "hidden": 128} if device == "cpu" else shape


# --------------------------------------------------------------------------------------------------- a row, in its own process


def measure(name: str, runner: str, device_name: str) -> dict[str, Any]:
    """Take steps on random ids, in fewer rows if the memory does not hold them."""
    import torch

    from tfkit.errors import is_out_of_memory
    from tfkit.model.transformer import Transformer
    from tfkit.training.device import has_bf16, memory_bytes, pick_device
    from tfkit.training.flops import ForwardShape, backward_flops, forward_flops
    from tfkit.training.peak_speed import peak_flops

    device, shape = pick_device(device_name), shape_of(name, device_name)
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    with torch.device("meta"):
        model = Transformer(tfkit_config(shape))
    length, rows = shape["length"], shape["rows"]
    of_row = ForwardShape(1, length, 0, length)  # of a language model
    flops = (forward_flops(model, of_row).total + backward_flops(model, of_row).total) / length  # per token
    while True:
        try:
            seconds, losses = timed(make_step(shape, runner, device, dtype, rows), device)
            break
        except Exception as error:
            if not is_out_of_memory(error) or rows == 1:
                raise
            rows //= 2
    tokens = rows * shape["length"] / statistics.median(seconds)
    peak = peak_flops(device, dtype)
    return {
        "tokens_per_second": tokens,
        "mfu": None if peak is None else tokens * flops / peak,
        "memory_mib": memory_bytes(device) / 2**20,
        "rows": rows,
        "precision": str(dtype).removeprefix("torch."),
        "seconds": [round(one, 5) for one in seconds],
        "losses": [losses[0], losses[-1]],
    }


def tfkit_config(shape: dict[str, int]) -> Any:
    """Return the shape as a config of tfkit."""
    from tfkit.families import PRESETS
    from tfkit.model.config import ModelConfig
    from tfkit.recipe.presets import merge

    sizes = {"vocab_size": shape["vocab"], "decoder_layers": shape["layers"], "dim": shape["dim"], "num_heads": shape["heads"]}
    sizes |= {"context_length": shape["length"], "hidden_dim": shape["hidden"], "head_dim": shape["dim"] // shape["heads"]}
    sizes |= {"num_kv_heads": shape["kv_heads"] or shape["heads"]}
    return ModelConfig.model_validate(merge(PRESETS["llama-7b" if shape["kv_heads"] else "gpt2"][1], sizes))


def make_step(shape: dict[str, int], runner: str, device: Any, dtype: Any, rows: int) -> Callable[[int], float]:
    """Return a function that takes the step of a number, from 0, and returns its loss."""
    import numpy as np
    import torch
    from plain_decoder import PlainLoop

    ours, compiled, apart = RUNNERS[runner]
    if not ours:
        loop = PlainLoop(shape, device, bf16=dtype == torch.bfloat16, compiled=compiled)
        generator = torch.Generator().manual_seed(1)
        return lambda number: loop.step(torch.randint(shape["vocab"], (rows, shape["length"] + 1), generator=generator))
    from tfkit.data import Loader, PackedRows, TokenStream
    from tfkit.model.transformer import build
    from tfkit.objectives.causal_lm import CausalLM
    from tfkit.recipe.schema.optimizer_sections import AdamWSection
    from tfkit.training.device import make_deterministic
    from tfkit.training.loss_module import LossModule
    from tfkit.training.optimizer import Optimizer
    from tfkit.training.precision import Weights
    from tfkit.training.step import Stepper

    make_deterministic(device)
    random, count = np.random.default_rng(1), 200 * rows
    lengths = random.integers(shape["length"] // 4, shape["length"], count)
    starts = np.concatenate([[0], lengths.cumsum()])
    tokens = random.integers(1, shape["vocab"], int(starts[-1])).astype(np.uint16)
    stream = TokenStream("made", tokens, starts, lengths, separator=0, max_id=shape["vocab"] - 1, fingerprint="made", cached=False)
    objective = CausalLM("apart" if apart else "joined")
    loader = Loader(PackedRows([(stream, 1.0)], shape["length"], 1), objective.collate, rows, rows)
    model = build(tfkit_config(shape), seed=1).to(device)
    weights = Weights(model, dtype)
    stepper = Stepper(LossModule(model, objective), weights, Optimizer(weights.trained, AdamWSection(lr=3e-4)), device=device, seed=1)
    if compiled:
        for stack in model.stacks:
            stack.compile()
    return lambda number: stepper.take(number + 1, loader.step(number), 1.0).loss


def timed(step: Callable[[int], float], device: Any) -> tuple[list[float], list[float]]:
    """Return seconds and losses of the steps after the first ones; reading each loss waits for the device."""
    import torch

    for number in range(WARM_UP):
        step(number)
    seconds: list[float] = []
    losses: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < SECONDS and len(seconds) < 200):
        start = time.perf_counter()
        losses.append(step(WARM_UP + len(seconds)))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds, losses


# ---------------------------------------------------------------------------------------------------------------- the report


def versions(device: str) -> list[str]:
    """Return the versions and the hardware, for a reader of the report."""
    import torch

    from tfkit.training.peak_speed import peak_flops

    names = ("tfkit", "torch", "triton", "numpy", "transformers", "codecarbon", "nvidia-ml-py")
    found = {name: _version(name) for name in names}
    lines = [f"- device: {device}", f"- python {platform.python_version()}, {platform.platform()}"]
    lines.append("- " + ", ".join(f"{name} {version}" for name, version in found.items()))
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        peak = peak_flops(torch.device(device), torch.bfloat16)
        lines += [
            f"- {properties.name}, {properties.total_memory / 2**30:.1f} GiB, compute capability {properties.major}.{properties.minor}",
            f"- CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, driver {_driver()}",
            f"- peak in bf16: {'not known, so no MFU' if peak is None else f'{peak / 1e12:.0f} TFLOP/s'}",
        ]
    return lines


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def run_tests(device: str, chosen: str | None) -> list[str]:
    """Run the tests marked gpu; return a line with counts, then each failure with its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.xml")
        marks = "gpu and not slow" if device == "cpu" else "gpu"
        command = [sys.executable, "-m", "pytest", "tests/devices", "-m", marks, "--device", device, "-W", "default", f"--junitxml={path}"]
        command += ["-k", chosen] if chosen else []
        start = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_LIMIT, check=False)
            output = done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            output = f"not ended after {TESTS_LIMIT} s\n{_text(error.stdout)}{_text(error.stderr)}"
        took = time.monotonic() - start
        if not path.exists():
            return ["The tests gave no results:", *_block(output)]
        cases = list(ElementTree.parse(path).iter("testcase"))
    bad = [(case, part) for case in cases for part in case if part.tag in ("failure", "error")]
    skipped = sum(part.tag == "skipped" for case in cases for part in case)
    lines = [f"{len(cases)} tests in {took:.0f} s: {len(bad)} failed, {skipped} skipped."]
    for case, part in bad:
        lines += ["", f"### {case.get('name')}", *_block(part.text or part.get("message") or "")]
    return lines


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _block(text: str) -> list[str]:
    """Return the end of a text as a block."""
    return ["", "```text", *text.rstrip().splitlines()[-120:], "```"]


def measure_all(device: str, write: Callable[[list[str]], None], end: float) -> None:
    """Measure the table, row by row; errors follow it. No row takes longer than until `end`, of the monotonic clock."""
    table = [
        "| shape | runner | tokens/s | beside plain | MFU | peak MiB | rows | precision |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    errors: list[str] = []
    for name in SHAPES:
        plain: dict[bool, float] = {}
        shown = f"{name}, made tiny" if device == "cpu" else name
        for runner, (ours, compiled, _) in RUNNERS.items():
            print(f"{name}: {runner}", file=sys.stderr, flush=True)
            command = [sys.executable, str(Path(__file__).resolve()), "--device", device, "--child", name, runner]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=max(1.0, min(ROW_LIMIT, end - time.monotonic())), check=True, cwd=ROOT
                )
                found = json.loads(done.stdout.splitlines()[-1])
            except (subprocess.SubprocessError, json.JSONDecodeError, IndexError) as error:
                text = _text(getattr(error, "stderr", "")) or traceback.format_exc()
                table.append(f"| {shown} | {runner} | failed | | | | | |")
                errors += ["", f"### {shown}: {runner}: {type(error).__name__}", *_block(text)]
                write([*table, *errors])
                continue
            if not ours:
                plain[compiled] = found["tokens_per_second"]
            ratio = f"{found['tokens_per_second'] / plain[compiled]:.2f}" if compiled in plain else "-"
            mfu = "-" if found["mfu"] is None else f"{found['mfu']:.1%}"
            numbers = f"{found['tokens_per_second']:,.0f} | {ratio} | {mfu} | {found['memory_mib']:,.0f} | {found['rows']}"
            table.append(f"| {shown} | {runner} | {numbers} | {found['precision']} |")
            write([*table, *errors])


def main() -> None:
    """Run the tests, then measure speed; write the report after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps, or cpu for tiny shapes")
    parser.add_argument("-k", dest="chosen", help="only the tests with these words in their names, as of pytest")
    parser.add_argument("--child", nargs=2, metavar=("SHAPE", "RUNNER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child, arguments.device)))
        return
    from tfkit.training.device import pick_device

    end = time.monotonic() + LIMIT
    device = str(pick_device(arguments.device))
    if device == "cpu" and arguments.device != "cpu":
        sys.exit("PyTorch finds no GPU here (tfkit env lists the devices); make gpu DEVICE=cpu does the same on the CPU, tiny")
    head = ["# tfkit on a device", "", *versions(device), "", "## Tests", ""]
    print(f"the tests, up to {TESTS_LIMIT} s", file=sys.stderr, flush=True)
    tests = run_tests(device, arguments.chosen)

    def write(speed: list[str]) -> None:
        REPORT.write_text("\n".join([*head, *tests, "", "## Speed", "", *speed, ""]), encoding="utf-8")

    write([])
    measure_all(device, write, end)
    print(REPORT.read_text(encoding="utf-8"))
    print(f"written to {REPORT.resolve()}", file=sys.stderr)
    sys.exit(1 if any(line.startswith("### ") for line in REPORT.read_text(encoding="utf-8").splitlines()) else 0)


if __name__ == "__main__":
    main()
