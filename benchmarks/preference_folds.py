"""A recipe of preferences, cross-validated by prompt: each pair is judged once a seed, by a model that was not trained on its prompt.

    tfkit pretrain smollm2-reviews
    python benchmarks/preference_folds.py reward-hh --folds 5 --seeds 3

Every run is a process of tfkit; an interrupted script continues. Prints a table: accuracy, margin and calibration of the
model, means over folds and their deviation over seeds, with the baselines of the same rows beside.
"""

import argparse
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from measured_runs import Runs, labelled_rows, write_rows

from tfkit.data.columns.rows import Row
from tfkit.recipe import read_recipe
from tfkit.recipe.reading.overrides import parse_overrides

Scores = Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run-root", type=Path, default=Path("runs/folds"))
    parser.add_argument("words", nargs="*", help="key=value for every run")
    options = parser.parse_intermixed_args()
    recipe = read_recipe(options.recipe, parse_overrides(options.words)).recipe
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": None})})
    parts = split(labelled_rows(recipe, None, test=False), options.folds)
    runs = Runs(options.run_root)
    found: list[list[tuple[int, dict[str, Scores]]]] = []  # of each seed, of each fold: its rows, and scores by name
    for seed in range(1, options.seeds + 1):
        found.append([])
        for number, part in enumerate(parts):
            rest = [row for other in parts if other is not part for row in other]
            train, held_out = (
                write_rows(rows, options.run_root / f"{name}-{number}.jsonl") for name, rows in (("train", rest), ("held-out", part))
            )
            data = [f'data.{field}=[{{"path": "{path}"}}]' for field, path in (("train", train), ("validation", held_out))]
            folder = options.run_root / f"fold-{number}-seed-{seed}"
            words = ["finetune", options.recipe, *options.words, *data, f"training.seed={seed}"]
            result = json.loads(runs.call([*words, "--run", str(folder), "--resume", "--json"], folder))
            found[-1].append((len(part), {"model": result["evaluation"], **result["baselines"]}))
    print(table(found))


def split(rows: Sequence[Row], folds: int) -> list[list[Row]]:
    """Return the rows in folds; all of a prompt are in one, whatever else there is."""
    parts: list[list[Row]] = [[] for _ in range(folds)]
    for row in rows:
        parts[int.from_bytes(hashlib.blake2b((row.input_key or row.key).encode(), digest_size=8).digest(), "big") % folds].append(row)
    return parts


def table(found: Sequence[Sequence[tuple[int, Mapping[str, Scores]]]]) -> str:
    """Return means over the folds of each seed, by their rows, and of these the mean and the deviation over seeds."""
    metrics = [name for name in ("accuracy", "margin", "calibration", "loss") if name in found[0][0][1]["model"]]
    lines = [f"| | {' | '.join(metrics)} |", f"|---|{'---:|' * len(metrics)}"]
    for name in found[0][0][1]:
        cells = []
        for metric in metrics:
            if metric not in found[0][0][1][name]:
                cells.append("")
                continue
            means = [sum(n * scores[name][metric] for n, scores in folds) / sum(n for n, _ in folds) for folds in found]
            varies = name == "model" and len(means) > 1
            cells.append(f"{statistics.fmean(means):.3f}" + (f" ± {statistics.stdev(means):.3f}" if varies else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
