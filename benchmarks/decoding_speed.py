"""Tokens per second of greedy decoding: GPT-2 124M with random weights, by tfkit and by transformers, in turns.

    python benchmarks/decoding_speed.py --rows 1 8
    python benchmarks/decoding_speed.py --unequal 200 --rows 16

Each runner is a process of its own, and they take turns for some rounds. A time is that of 64 tokens after the first. With --unequal it is
that of so many prompts of 10 to 500 tokens and 32 new tokens after each: by transformers in the order of the file, padded on the left, in
batches of --rows; by tfkit in the batches of `tfkit generate --input`.
"""

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from tfkit.engine.inference.prompt_lines import prompts_in_batch
from tfkit.model.padding import pad, real_tokens

PROMPT, TOKENS, VOCABULARY = 64, 64, 50257
SHORTEST, LONGEST, NEW = 10, 500, 32  # tokens of unequal prompts, and of their continuations
Prompts = list[list[int]]
Batches = list[Prompts]
RUNNERS = ("transformers float32", "transformers bf16", "tfkit float32", "tfkit bf16", "tfkit int8")


def decoder(runner: str) -> Callable[[Batches, int], object]:
    """Return a function that continues the prompts of batches by a number of tokens."""
    library, precision = runner.split()
    torch.manual_seed(1)
    if library == "transformers":
        from transformers import GPT2Config, GPT2LMHeadModel

        theirs = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0)).eval()
        theirs = theirs.to(torch.bfloat16 if precision == "bf16" else torch.float32)

        def padded(prompts: Prompts, tokens: int) -> object:
            ids, mask = pad(prompts, 0, left=True), real_tokens(prompts, left=True).long()
            lengths = {"min_new_tokens": tokens, "max_new_tokens": tokens}
            return theirs.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **lengths)

        return lambda batches, tokens: [padded(prompts, tokens) for prompts in batches]
    from tfkit.generation.decoding import AT_ONCE, generate
    from tfkit.model.answering_linear import pack, to_int8
    from tfkit.model.transformer import build
    from tfkit.recipe import model_config
    from tfkit.recipe.schema.output_sections import GenerationSection
    from tfkit.recipe.schema.sections import ModelSection

    ours = build(model_config(ModelSection(preset="gpt2"), VOCABULARY), seed=1)
    if precision == "int8":
        to_int8(ours)
    else:
        pack(ours.to(torch.bfloat16 if precision == "bf16" else torch.float32))
    return lambda batches, tokens: [
        generate(ours, prompts, GenerationSection(temperature=0, max_new_tokens=tokens), at_once=AT_ONCE) for prompts in batches
    ]


def seconds_per_token(runner: str, rows: int) -> float:
    """Return the seconds of a token of all rows: the least of three."""
    run, batch = decoder(runner), [[(7 * place + row) % 50000 for place in range(PROMPT)] for row in range(rows)]

    def timed(tokens: int) -> float:
        begin = time.perf_counter()
        run([batch], tokens)
        return time.perf_counter() - begin

    timed(2)
    return min(timed(1 + TOKENS) - timed(1) for _ in range(3)) / TOKENS


def seconds_of_unequal(runner: str, rows: int, count: int) -> float:
    """Return the seconds for `count` prompts of unequal lengths."""
    draws = random.Random(1)
    prompts = [[draws.randrange(50000) for _ in range(draws.randint(SHORTEST, LONGEST))] for _ in range(count)]
    sizes = itertools.repeat(rows) if runner.startswith("transformers") else map(prompts_in_batch, itertools.count())
    remaining = iter(prompts)
    batches = list(itertools.takewhile(bool, (list(itertools.islice(remaining, size)) for size in sizes)))
    run = decoder(runner)
    run([[prompts[0][:PROMPT]] * 2], 2)
    begin = time.perf_counter()
    run(batches, NEW)
    return time.perf_counter() - begin


def main() -> None:
    """Print a table for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="decoded at once (default 1 8)")
    parser.add_argument("--unequal", type=int, metavar="N", help="N prompts of unequal lengths")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=RUNNERS, help="(default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runner", choices=RUNNERS, help=argparse.SUPPRESS)  # of a process of its own
    arguments = parser.parse_args()
    if arguments.runner:
        given = arguments.runner, arguments.rows[0]
        print(json.dumps(seconds_of_unequal(*given, arguments.unequal) if arguments.unequal else seconds_per_token(*given)))
        return
    for rows in arguments.rows:
        found: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.rounds):
            for runner in arguments.runners:
                words = [sys.executable, __file__, "--runner", runner, "--rows", str(rows)]
                words += ["--unequal", str(arguments.unequal)] if arguments.unequal else []
                done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                found[runner].append(json.loads(done.stdout))
        base = statistics.median(found[arguments.runners[0]])
        tokens = NEW * arguments.unequal if arguments.unequal else rows
        print(f"\n{rows} rows, {torch.get_num_threads()} threads\n\n| runner | tokens/s, median | least, most | x {arguments.runners[0]} |")
        print("| --- | --- | --- | --- |")
        for runner, times in found.items():
            middle = statistics.median(times)
            print(f"| {runner} | {tokens / middle:.1f} | {tokens / max(times):.1f}, {tokens / min(times):.1f} | {base / middle:.2f} |")


if __name__ == "__main__":
    main()
