"""Tokens per second of greedy decoding: GPT-2 124M with random weights, by tfkit and by transformers, in turns.

    python benchmarks/decoding_speed.py --rows 1 8

Each runner is a process of its own, and they take turns for some rounds. A time is that of 64 tokens after the first.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch

PROMPT, TOKENS, VOCABULARY = 64, 64, 50257
RUNNERS = ("transformers float32", "transformers bf16", "tfkit float32", "tfkit bf16", "tfkit int8")


def decoder(runner: str, rows: int) -> Callable[[int], object]:
    """Return a function that continues the prompts by a number of tokens."""
    library, precision = runner.split()
    prompts = [[(7 * place + row) % 50000 for place in range(PROMPT)] for row in range(rows)]
    torch.manual_seed(1)
    if library == "transformers":
        from transformers import GPT2Config, GPT2LMHeadModel

        theirs = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0)).eval()
        theirs = theirs.to(torch.bfloat16 if precision == "bf16" else torch.float32)
        ids = torch.tensor(prompts)
        settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
        return lambda tokens: theirs.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **settings)
    from tfkit.generation.decoding import generate
    from tfkit.model.answering_linear import pack, to_int8
    from tfkit.model.transformer import build
    from tfkit.recipe import model_config
    from tfkit.recipe.schema.sections import GenerationSection, ModelSection

    ours = build(model_config(ModelSection(preset="gpt2"), VOCABULARY), seed=1)
    if precision == "int8":
        to_int8(ours)
    else:
        pack(ours.to(torch.bfloat16 if precision == "bf16" else torch.float32))
    return lambda tokens: generate(ours, prompts, GenerationSection(temperature=0, max_new_tokens=tokens))


def seconds_per_token(runner: str, rows: int) -> float:
    """Return the seconds of a token of all rows: the least of three."""
    run = decoder(runner, rows)

    def timed(tokens: int) -> float:
        begin = time.perf_counter()
        run(tokens)
        return time.perf_counter() - begin

    timed(2)
    return min(timed(1 + TOKENS) - timed(1) for _ in range(3)) / TOKENS


def main() -> None:
    """Print a table for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="decoded at once (default 1 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runner", choices=RUNNERS, help=argparse.SUPPRESS)  # of a process of its own
    arguments = parser.parse_args()
    if arguments.runner:
        print(json.dumps(seconds_per_token(arguments.runner, arguments.rows[0])))
        return
    for rows in arguments.rows:
        found: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.rounds):
            for runner in RUNNERS:
                words = [sys.executable, __file__, "--runner", runner, "--rows", str(rows)]
                done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                found[runner].append(json.loads(done.stdout))
        base = statistics.median(found[RUNNERS[0]])
        print(f"\n{rows} rows, {torch.get_num_threads()} threads\n\n| runner | tokens/s, median | least, most | x {RUNNERS[0]} |")
        print("| --- | --- | --- | --- |")
        for runner, times in found.items():
            middle = statistics.median(times)
            print(f"| {runner} | {rows / middle:.1f} | {rows / max(times):.1f}, {rows / min(times):.1f} | {base / middle:.2f} |")


if __name__ == "__main__":
    main()
