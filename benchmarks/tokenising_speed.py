"""Seconds and memory of tokenising and storing a text, by tfkit and by `datasets.map` with the same fast tokenizer, in turns.

    python benchmarks/tokenising_speed.py --model SMOLLM2 --megabytes 200

The text is the Python files of --folder, one a row of a JSON Lines file; both read this file and end with all ids on the disk. tfkit uses
the threads of the `tokenizers` library; so does datasets with one process, and with two each has one thread. Each runner is a process of
its own, which is timed without its imports.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

RUNNERS = ("datasets, 1 process", "datasets, 2 processes", "tfkit")


def write_rows(file: Path, folder: Path, size: int) -> int:
    """Write the Python files of a folder, over again if they are too few, until there are `size` bytes; return the bytes of text."""
    written = 0
    with file.open("w", encoding="utf-8") as out:
        while written < size:
            for path in sorted(folder.rglob("*.py")):
                text = path.read_text(encoding="utf-8", errors="ignore")
                out.write(json.dumps({"text": text}) + "\n")
                written += len(text.encode())
                if written >= size:
                    break
    return written


def tokenise(runner: str, rows: str, model: str) -> tuple[float, int]:
    """Return the seconds and the number of tokens."""
    if runner == "tfkit":
        from tfkit.data.sources.open_sources import training_sources
        from tfkit.data.store.token_stream import token_stream
        from tfkit.hub.ids import read_tokenizer
        from tfkit.recipe.schema.data_sections import DataSection

        begin = time.perf_counter()
        tokenizer = read_tokenizer(Path(model), 1 << 20)
        assert tokenizer is not None
        (source,) = training_sources(DataSection.model_validate({"train": [{"path": rows}]}))
        stream = token_stream(source, tokenizer)
        return time.perf_counter() - begin, len(stream.tokens) - len(stream) * stream.separator
    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoTokenizer

    disable_progress_bars()
    begin = time.perf_counter()
    theirs = AutoTokenizer.from_pretrained(model)
    texts = load_dataset("json", data_files=rows, split="train")
    processes = 2 if "2" in runner else None
    found = texts.map(lambda batch: theirs(batch["text"]), batched=True, remove_columns=["text"], num_proc=processes)
    seconds = time.perf_counter() - begin
    return seconds, sum(len(ids) for batch in found.iter(1000) for ids in batch["input_ids"])


def main() -> None:
    """Take turns, then print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with a fast tokenizer")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=sysconfig.get_path("purelib"), help="(default: the packages of this Python)")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=RUNNERS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print("RESULT", json.dumps(tokenise(arguments.runners[0], arguments.child, arguments.model)))
        return
    seconds: dict[str, list[float]] = {runner: [] for runner in arguments.runners}
    peaks, tokens = dict.fromkeys(arguments.runners, 0.0), dict.fromkeys(arguments.runners, 0)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        size = write_rows(rows, arguments.folder, arguments.megabytes * 10**6)
        for _ in range(arguments.rounds):
            for runner in arguments.runners:
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    places = {"TFKIT_CACHE": cache, "HF_HOME": cache, "HF_DATASETS_CACHE": cache, "HF_HUB_OFFLINE": "1"}
                    command = [sys.executable, __file__, "--model", arguments.model, "--runners", runner, "--child", str(rows)]
                    with tempfile.TemporaryFile("w+") as out:
                        process = subprocess.Popen(command, stdout=out, env={**os.environ, **places})
                        _, status, usage = os.wait4(process.pid, 0)
                        assert status == 0, runner
                        out.seek(0)
                        took, tokens[runner] = json.loads(out.read().partition("RESULT")[2])
                seconds[runner].append(took)
                peaks[runner] = max(peaks[runner], usage.ru_maxrss / 1024)
    base = statistics.median(seconds[arguments.runners[0]])
    print(
        f"{size / 1e6:.0f} MB\n\n| runner | seconds, median | all | x {arguments.runners[0]} | tokens | peak MiB |\n" + "| --- " * 6 + "|"
    )
    for runner, times in seconds.items():
        middle, every = statistics.median(times), ", ".join(f"{one:.1f}" for one in times)
        print(f"| {runner} | {middle:.1f} | {every} | {base / middle:.2f} | {tokens[runner]:,} | {peaks[runner]:.0f} |")


if __name__ == "__main__":
    main()
