"""Forecasts beside what was measured: six small runs of different kinds, each planned, planned by ten real steps, and run.

    python benchmarks/forecasts.py /tmp/forecasts --minilm CKPT --smollm2 CKPT --repeat 3 --write docs/carbon.md

Each command is a process of its own, with a cache folder of the benchmark, whose history of forecasts is deleted before each plan: what is
shown of a plan without a probe is by the table of the machine's speeds alone. Medians of the repetitions, of which three take some 20
minutes on two cores. Run it on a machine that does nothing else. Finished repetitions are kept in FOLDER/results.json, and not done again.
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- forecasts: begin -->", "<!-- forecasts: end -->"
PROBE = 10


@dataclass(frozen=True)
class Case:
    """A run: its name, its command, and the words of it that a plan takes, too."""

    name: str
    command: str
    words: tuple[str, ...]


def cases(folder: Path, minilm: str | None, smollm2: str | None) -> Iterator[Case]:
    """Yield the runs, each of about a minute on two cores."""
    yield Case("decoder, GPT-2 of 6 layers", "pretrain", ("gpt2-stdlib", "training.steps=40"))
    yield Case("encoder, BERT with next sentences", "pretrain", ("bert-stdlib", "training.steps=150"))
    yield Case("encoder-decoder, T5", "pretrain", ("t5-stdlib", "training.steps=150"))
    if minilm:
        yield Case(
            "classification, all of MiniLM-L6",
            "finetune",
            ("python-packages", "--from", minilm, "training={steps: 30, batch_size: 8, seed: 1}", "schedule.warmup_steps=5"),
        )
    if smollm2:
        rows = chat_rows(folder / "chat.jsonl")
        changes = ("training={steps: 12, batch_size: 4, adapter: {rank: 8}}",)
        document = folder / "chat.yaml"
        document.write_text(f"objective: {{kind: chat}}\ndata: {{train: [{{path: {rows}}}]}}\n", encoding="utf-8")
        yield Case("chat, LoRA on SmolLM2-135M", "finetune", (str(document), "--from", smollm2, *changes))
    start = folder / "sums"
    data = [f"data.train.0.path={folder}/sums-data/train.jsonl", f"data.validation.0.path={folder}/sums-data/test.jsonl"]
    yield Case("GRPO, responses of 4 tokens", "finetune", ("grpo-sums", "--from", str(start), *data, "training.steps=40"))


def chat_rows(path: Path) -> Path:
    """Write questions about functions of the standard library, with the first lines of their docstrings as answers."""
    rows = []
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                rows.append({"question": f"What does {file.stem}.{node.name} do?", "answer": text.splitlines()[0]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:2000]), encoding="utf-8")
    return path


def tfkit(folder: Path, *words: str) -> str:
    """Return the stdout of a command. Raises RuntimeError where it fails."""
    environment = os.environ | {"TFKIT_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "tfkit", *words], capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    return done.stdout


def prepare(folder: Path) -> None:
    """Make the data and the model that the rollouts begin from."""
    if (folder / "sums" / "checkpoints").is_dir():
        return
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "make_sums.py"), str(folder / "sums-data")], check=True)
    words = [f"data.train.0.path={folder}/sums-data/text.jsonl", "training.steps=200", "--run", str(folder / "sums")]
    tfkit(folder, "pretrain", "sums", *words)


def measure(case: Case, folder: Path, number: int) -> dict[str, Any]:
    """Plan a run without and with a probe, and run it."""
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    for name, more in (("table", ()), ("probe", ("--probe", str(PROBE)))):
        (folder / "cache" / "forecasts.jsonl").unlink(missing_ok=True)
        plan = json.loads(tfkit(folder, "plan", *case.words, *more, "--json"))
        found[name] = {
            "seconds": plan["seconds"]["likely"],
            "energy_kwh": plan["energy_kwh"]["likely"],
            "memory_bytes": plan["memory_bytes"],
            "flops": plan["flops"]["total"],
        }
    run = folder / "runs" / f"{number}-{case.name.split(',')[0]}"
    tfkit(folder, case.command, *case.words, "--run", str(run), "--json")
    found["actual"] = json.loads((run / "run.json").read_text(encoding="utf-8"))["actual"]
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the medians as a table in Markdown: predicted by the table and by a probe, measured."""
    lines = [
        "| run | FLOPs | seconds: table | probe | measured | Wh: table | probe | measured | MB: formula | probe | measured |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, repetitions in results.items():
        cells = [name, f"{repetitions[0]['table']['flops']:.2g}"]
        for field, scale in (("seconds", 1.0), ("energy_kwh", 1000.0), ("memory_bytes", 1e-6)):
            values = {of: median([one[of][field] for one in repetitions]) for of in ("table", "probe", "actual")}
            actual = values["actual"]
            for of in ("table", "probe"):
                cells.append(f"{values[of] * scale:.3g} ({values[of] / actual - 1:+.0%})" if actual else f"{values[of] * scale:.3g}")
            cells.append(f"{actual * scale:.3g}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def median(values: Sequence[float | None]) -> float:
    """Return the median of the numbers; 0 of none."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else 0.0


def write(path: Path, text: str) -> None:
    """Put the text between the markers of a page."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minilm")
    parser.add_argument("--smollm2")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    kept = folder / "results.json"
    results: dict[str, list[dict[str, Any]]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for number in range(arguments.repeat):
        for case in cases(folder, arguments.minilm, arguments.smollm2):
            done = results.setdefault(case.name, [])
            if len(done) <= number:
                done.append(measure(case, folder, number))
                kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
                print(case.name, json.dumps(done[-1]), flush=True)
    print(table(results))
    if arguments.write:
        write(arguments.write, table(results))


if __name__ == "__main__":
    main()
