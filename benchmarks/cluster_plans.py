"""Memory and traffic of a rank, planned: models of 7 to 175 billion parameters on 8 to 1,024 GPUs; and one plan beside a real run.

    python benchmarks/cluster_plans.py                         # computed plans; docs/cluster.md has two of them
    python benchmarks/cluster_plans.py --models llama2-7b --ranks 8 64
    python benchmarks/cluster_plans.py --measure               # two ranks on this machine, their memory beside the plan

Each row is a simulated step (tfkit/engine/planning/simulated_step.py) in bf16, with activation checkpointing, AdamW, a row of the model's
context in each micro-batch, and the fewest GPUs a copy of the weights that fit 90 % of an H100's 80 GB.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GB = 1e9
RANKS = (8, 64, 256, 1024)
USABLE = 0.9 * 80e9  # of an H100
STEP_TOKENS = 2**22  # 4 million, as Llama 2 was trained (arXiv 2307.09288, section 2.2)
MODELS = ("llama2-7b", "llama2-70b", "gpt3-175b")
MEASURED = {  # two ranks of GPT-2 on this machine; the rows of a micro-batch are one
    "87M, each with all weights": ("model={preset: gpt2, context_length: 128}", "parallel.shard=1"),
    "87M, sharded": ("model={preset: gpt2, context_length: 128}", "parallel.shard=2"),
    "20M, sharded, 512 tokens": (
        "model={preset: gpt2, decoder_layers: 6, dim: 512, num_heads: 8, context_length: 512}",
        "parallel.shard=2",
    ),
}


def rows(models: list[str], ranks: list[int]) -> Iterator[dict[str, Any]]:
    """Yield a planned row for each model and number of ranks."""
    import torch

    from tfkit.engine.assembly.components import meta_model
    from tfkit.engine.assembly.memory_plan import run_memory
    from tfkit.engine.planning.simulated_step import Mesh, SimulatedStep, simulate
    from tfkit.model.transformer import parameter_shapes
    from tfkit.objectives.causal_lm import CausalLM
    from tfkit.objectives.objective import Batch
    from tfkit.recipe import RecipeText, model_config
    from tfkit.recipe.dump import dump_document

    for name in models:
        document = {
            "model": {"preset": name},
            "data": {"train": [{"stdlib": True}]},
            "training": {"steps": 1, "activation_checkpointing": True},
        }
        recipe = RecipeText(Path("<recipe>"), dump_document(document)).read()
        config = model_config(recipe.model, 50_257 if name.startswith("gpt") else 32_000)
        ids = torch.zeros(1, config.context_length, dtype=torch.long)
        found: dict[tuple[int, int], SimulatedStep] = {}

        def step(size: int, shards: int) -> SimulatedStep:
            count = max(1, STEP_TOKENS // config.context_length // size)  # noqa: B023  # called within the loop
            mesh = Mesh(size, shards, reshard=True, micro_batches=count, dtype=torch.bfloat16)
            return simulate(recipe, config, CausalLM(), Batch(ids, ids), mesh)  # noqa: B023

        state = 16 * sum(map(math.prod, parameter_shapes(config).values()))  # weights, gradients and two moments, in fp32
        for size in ranks:
            shards = min(8, size)
            while shards < size and state / shards > USABLE:
                shards *= 2
            while True:
                found[size, shards] = step(size, shards)
                if found[size, shards].peak <= USABLE or shards == size:
                    break
                shards = min(2 * shards, size)
            one, own = found[size, shards], run_memory(recipe, CausalLM(), meta_model(recipe, config), torch.bfloat16, shards=shards).own
            yield {
                "model": name,
                "ranks": size,
                "shards": shards,
                "fits": one.peak <= USABLE,
                "state": own.weights + own.gradients + own.optimizer,
                "gathered": own.gathered,
                "activations": one.activations,
                "peak": one.peak,
                "sent": one.sent,
            }


def table(found: Iterator[dict[str, Any]]) -> None:
    """Print the rows in Markdown, as they come."""
    print("| model | GPUs | mesh | weights, gradients, AdamW | gathered | activations | peak | sent in a step |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in found:
        sizes = " | ".join(f"{row[name] / GB:.1f} GB" for name in ("state", "gathered", "activations"))
        peak = f"{row['peak'] / GB:.1f} GB" + ("" if row["fits"] else ": does not fit")
        mesh = f"{row['ranks'] // row['shards']} x {row['shards']}"
        print(f"| {row['model']} | {row['ranks']:,} | {mesh} | {sizes} | {peak} | {sum(row['sent'].values()) / GB:.0f} GB |", flush=True)


def measure() -> None:
    """Print the planned memory of each of two ranks and the most that their processes had, in Markdown."""
    print("| GPT-2, fp32, two ranks | tensors, planned | process, planned | process, measured | measured / planned |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "text").mkdir()
        (place / "text" / "a.txt").write_text(" ".join(str(number) for number in range(60_000)), encoding="utf-8")
        recipe = place / "recipe.yaml"
        recipe.write_text(
            f"model: {{preset: gpt2}}\ntokenizer: {{vocab_size: 2048}}\ndata: {{train: [{{path: {place / 'text'}}}]}}\n"
            "training: {steps: 4, batch_size: 4, micro_batch_size: 1, precision: fp32}\ncarbon: {enabled: false}\n",
            encoding="utf-8",
        )
        for number, (name, words) in enumerate(MEASURED.items()):
            planned = json.loads(tfkit(["plan", str(recipe), *words, "--ranks", "2", "--json", "--device", "cpu"]))["cluster"]
            layout = planned["layout"]
            peaks = ranks_of(["pretrain", str(recipe), *words, "--run", str(place / f"run-{number}"), "--threads", "1", "--device", "cpu"])
            whole = planned["memory_bytes"][layout]
            tensors = planned["tensor_bytes"][layout]["peak"] / GB
            print(f"| {name} | {tensors:.2f} GB | {whole / GB:.2f} GB | {max(peaks) / GB:.2f} GB | {max(peaks) / whole:.2f} |", flush=True)


def tfkit(words: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run([sys.executable, "-m", "tfkit", *words], capture_output=True, text=True, check=True).stdout


def ranks_of(words: list[str]) -> list[int]:
    """Run a command on two ranks, and return the most memory that each process had, in bytes."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    children = []
    for rank in range(2):
        environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        children.append(subprocess.Popen([sys.executable, "-m", "tfkit", *words], env=environment, stdout=subprocess.DEVNULL))
    peaks = []
    for child in children:
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"a rank ended with {os.waitstatus_to_exitcode(status)}: {' '.join(words)}")
        peaks.append(usage.ru_maxrss * 1024)
    return peaks


def main() -> None:
    """Plan, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--ranks", nargs="+", type=int, default=list(RANKS))
    parser.add_argument("--measure", action="store_true", help="run two ranks on this machine instead")
    chosen = parser.parse_args()
    if chosen.measure:
        measure()
    else:
        table(rows(chosen.models, chosen.ranks))


if __name__ == "__main__":
    main()
