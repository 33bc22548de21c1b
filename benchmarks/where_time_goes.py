"""Where the time of a training step or of a decoded token goes: its parts beside the least that this machine would need for each.

    python benchmarks/where_time_goes.py gpt2 demo
    python benchmarks/where_time_goes.py chat --model SMOLLM2
    python benchmarks/where_time_goes.py decode-float32 decode-bf16 decode-int8 --rows 8

Steps of the real program, in this process, on text of the standard library; chat is the fine-tuning of training_speed.py.
PyTorch's profiler attributes time to operators; what it
attributes to none is Python and waiting. The floor of a product is its FLOPs over the fastest product of this machine, that of another part
the bytes of its inputs and outputs over the fastest copy; both are measured first. Time within a profile is some percent longer than alone.
The share of the fastest product counts all products that ran, those that were computed again, too, and none within a fused kernel.

A token is decoded by GPT-2 124M with random weights, greedily, after a prompt of 64 for each row. The floor of its products is the time of
reading the weights as fast as this machine reads memory.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from training_speed import CASES as COMPARED
from training_speed import chat_recipe

import tfkit
from tfkit.generation.decoding import generate
from tfkit.model.answering_linear import Int8Linear, PackedLinear, pack, to_int8
from tfkit.model.transformer import Transformer, build
from tfkit.recipe import model_config
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.recipe.schema.sections import ModelSection
from tfkit.training.step import Stepper

WARM_UP, MEASURED = 2, 3
PROMPT, DECODED = 64, 64  # tokens
STDLIB: dict[str, Any] = {"train": [{"stdlib": True}]}
_NO_DROPOUT = {"dropout": dict.fromkeys(("embedding", "attention", "residual", "hidden", "final", "head"), 0.0)}
_BYTES = {"kind": "byte_bpe", "vocab_size": 8192}
_LLAMA = {
    "preset": "llama2-7b",
    "dim": 512,
    "decoder_layers": 8,
    "num_heads": 8,
    "num_kv_heads": 2,
    "hidden_dim": 1376,
    "context_length": 256,
}
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {"model": {"preset": "gpt2", "context_length": 512, "vocab_size": 50257}, "tokenizer": _BYTES, "rows": 2},
    "small": {
        "model": {"preset": "gpt2", "dim": 384, "decoder_layers": 6, "num_heads": 6, "context_length": 256},
        "tokenizer": _BYTES,
        "rows": 16,
    },
    "llama": {"model": _LLAMA, "tokenizer": {"kind": "byte_bpe", "vocab_size": 8192}, "rows": 8},
    "bert": {
        "model": {"preset": "bert-base", "context_length": 128, **_NO_DROPOUT},
        "tokenizer": {"kind": "wordpiece", "vocab_size": 8192},
        "objective": {"kind": "masked_lm"},
        "rows": 8,
    },
    "t5": {
        "model": {"preset": "t5-small", "context_length": 128, **_NO_DROPOUT},
        "tokenizer": {"kind": "unigram", "vocab_size": 8192},
        "objective": {"kind": "span_corruption"},
        "rows": 8,
    },
}
DECODING = ("decode-float32", "decode-bf16", "decode-int8")
PARTS = {
    "products": (
        "_linear_pointwise",
        "_weight_int8pack_mm",
        "qlinear_pointwise",
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "linear",
        "mkldnn_linear",
        "mv",
        "addmv",
        "dot",
    ),
    "attention kernel": ("_scaled_dot_product",),
    "softmax": ("_softmax", "_log_softmax", "logsumexp", "exp", "logaddexp"),
    "norm": ("native_layer_norm", "linalg_vector_norm", "rsqrt", "linalg_vecdot"),
    "activation": ("gelu", "silu", "tanh", "sigmoid", "relu"),
    "embedding": ("embedding", "index"),
    "optimizer": ("_fused_adamw", "_foreach", "lerp", "addcdiv", "addcmul", "sqrt"),
    "casts and copies": ("copy", "clone", "fill", "zero", "cat", "empty", "_to_copy", "zeros", "ones"),
}


class Profiled:
    """Measures the steps after the first ones of every run in this process."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.operators: dict[str, tuple[float, float, float]] = {}  # self seconds, FLOPs and elements of a step, by operator
        self.tokens = 0

    def note(self, profiler: profile, steps: int = 1) -> None:
        """Add what a profiler saw of some steps."""
        for event in profiler.key_averages(group_by_input_shape=True):
            elements = sum(torch.Size(shape).numel() for shape in event.input_shapes if shape and isinstance(shape[0], int))
            found = self.operators.get(event.key, (0.0, 0.0, 0.0))
            added = (event.self_cpu_time_total / 1e6 / steps, float(event.flops or 0) / steps, float(elements * event.count) / steps)
            self.operators[event.key] = tuple(map(sum, zip(found, added, strict=True)))  # type: ignore[assignment]

    def take(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """Return Stepper.take, of which the later calls are timed, and the last ones are profiled."""
        calls = 0

        def timed(stepper: Stepper, *words: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls <= WARM_UP + MEASURED:
                begin = time.perf_counter()
                report = inner(stepper, *words, **options)
                if calls > WARM_UP:
                    self.seconds.append(time.perf_counter() - begin)
                self.tokens = report.tokens
                return report
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as profiler:
                report = inner(stepper, *words, **options)
            self.note(profiler)
            return report

        return timed


def part_of(operator: str) -> str:
    """Return the part of a step that an operator belongs to."""
    name = operator.removeprefix("aten::").removeprefix("mkldnn::").removeprefix("onednn::")
    exact = (part for part, names in PARTS.items() if name.rstrip("_") in names)
    begins = (part for part, names in PARTS.items() for one in names if name.startswith(one))
    return next(exact, next(begins, "sums and other elements")) if "::" in operator else "Python, autograd"


def peaks() -> tuple[float, float, float]:
    """Return the FLOP/s of the fastest product of bf16 matrices, and the bytes per second of a copy and of reading."""
    dtype = torch.bfloat16

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(12):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    rates = []
    for rows, inner, columns in ((2048, 2048, 2048), (4096, 384, 1536), (1024, 768, 3072)):
        one, other = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        rates.append(2 * rows * inner * columns / best(lambda one=one, other=other: torch.nn.functional.linear(one, other)))
    source, target = torch.ones(64 * 2**20), torch.empty(64 * 2**20)
    return max(rates), 2 * source.nbytes / best(lambda: target.copy_(source)), source.nbytes / best(source.sum)


def recipe_of(case: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a case on the text of the standard library."""
    training = {"batch_size": case["rows"], "steps": 1, "log_every": 1000000}
    parts = {name: part for name, part in case.items() if name != "rows"}
    return {"data": STDLIB, "optimizer": {"kind": "adamw", "lr": 1e-4}, "training": training, **parts}


def measure(name: str, checkpoint: str | None) -> Profiled:
    """Train some steps of a case; `checkpoint`: for chat."""
    profiled, inner = Profiled(), Stepper.take
    Stepper.take = profiled.take(inner)  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            steps = WARM_UP + MEASURED + 1
            more = {"training.steps": steps, "carbon.enabled": False}
            if name == "chat":
                recipe = chat_recipe(COMPARED[name], str(checkpoint), steps, Path(folder, "rows.jsonl"))
                tfkit.finetune(recipe, more, run=f"{folder}/run")
            elif name == "demo":
                tfkit.pretrain("demo", more | {"schedule.warmup_steps": 1}, run=f"{folder}/run")
            else:
                tfkit.pretrain(recipe_of(CASES[name]), more, run=f"{folder}/run")
    finally:
        Stepper.take = inner  # type: ignore[method-assign]
    return profiled


def decode(name: str, rows: int) -> tuple[Profiled, int]:
    """Decode some tokens of `rows` rows; also return the bytes of weights that each reads."""
    model = build(model_config(ModelSection(preset="gpt2"), 50257), seed=1)
    if name == "decode-int8":
        to_int8(model)
    else:
        pack(model.to(torch.bfloat16 if name == "decode-bf16" else torch.float32))
    prompts = [[(7 * place + row) % 50000 for place in range(PROMPT)] for row in range(rows)]

    def run(tokens: int) -> float:
        begin = time.perf_counter()
        generate(model, prompts, GenerationSection(temperature=0, max_new_tokens=tokens))
        return time.perf_counter() - begin

    found = Profiled()
    found.tokens = rows
    run(1), run(DECODED)
    found.seconds = [(run(1 + DECODED) - run(1)) / DECODED for _ in range(MEASURED)]
    for tokens, sign in ((1 + DECODED, 1), (1, -1)):  # without the prompt
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as profiler:
            run(tokens)
        found.note(profiler, sign * DECODED)
    return found, _bytes_read(model)


def _bytes_read(model: Transformer) -> int:
    """Return the bytes of all weights that a token reads: those of the products."""
    layers = (layer for layer in model.modules() if isinstance(layer, PackedLinear | Int8Linear))
    return sum(layer.packed.numel() * layer.packed.element_size() for layer in layers)


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=[*CASES, "demo", "chat", *DECODING])
    parser.add_argument("--model", help="a folder with SmolLM2-135M-Instruct, for chat")
    parser.add_argument("--rows", type=int, default=1, help="decoded at once (default 1)")
    parser.add_argument("--operators", type=int, default=0, help="also print this many operators")
    arguments = parser.parse_args()
    flops_rate, copy_rate, read_rate = peaks()
    memory = f"copy {copy_rate / 1e9:.0f} GB/s, reading {read_rate / 1e9:.0f} GB/s"
    print(f"fastest product {flops_rate / 1e9:.0f} GFLOP/s, {memory}, {torch.get_num_threads()} threads")
    for name in arguments.cases:
        found, weights = decode(name, arguments.rows) if name in DECODING else (measure(name, arguments.model), 0)
        parts: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for operator, numbers in found.operators.items():
            for index, number in enumerate(numbers):
                parts[part_of(operator)][index] += number
        step, profiled = statistics.median(found.seconds), sum(seconds for seconds, _, _ in parts.values())
        flops = sum(flops for _, flops, _ in parts.values())
        share = flops / step / flops_rate
        speed = f"{weights / step / 1e9:.0f} GB/s of weights" if weights else f"{share:.0%} of the fastest product"
        print(f"\n{name}: {step * 1e3:.4g} ms a step ({found.tokens / step:.0f} tokens/s), {speed}")
        for part, (seconds, work, elements) in sorted(parts.items(), key=lambda item: -item[1][0]):
            floor = work / flops_rate if work else elements * 4 / copy_rate  # two bytes read, two written
            if weights and part == "products":
                floor = weights / read_rate
            print(f"  {part:24} {seconds * 1e3:8.1f} ms  {seconds / profiled:5.1%}   floor {floor * 1e3:7.1f} ms")
        for operator, numbers in sorted(found.operators.items(), key=lambda item: -item[1][0])[: arguments.operators]:
            print(f"    {operator:56} {numbers[0] * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
