"""A figure of what a policy's reward and its gold score are worth against its distance from the start: one line for each trial of a sweep.

    tfkit sweep runs/instructgpt-reviews/ppo/recipe.yaml objective.beta=0,0.03,0.1,0.3,1 training.steps=400 objective.kl_limit=null \\
        --run runs/betas
    python benchmarks/reward_against_kl.py runs/betas objective.beta docs/instructgpt.svg

Points are evaluations on held-out prompts; the axis is the root of the kl, in which both are near a parabola (Gao et al. 2022, arXiv
2210.10760). A table of the last evaluations is printed as Markdown.
"""

import argparse
import math
from pathlib import Path

from tfkit.durable import write_atomically
from tfkit.run.metrics import read_metrics
from tfkit.run.run_json import read_run_json, trial_folders

WIDTH, HEIGHT, PANEL, LEFT, TOP, BOTTOM = 760, 330, 300, 52, 34, 60
METRICS = {"reward": "reward, by the model that trains", "gold": "gold: probability of a good text"}
STYLE = """
  text { font: 13px sans-serif; fill: #24292f } .grid { stroke: #d0d7de } polyline { fill: none; stroke-width: 2 }
  .s0 { stroke: #0550ae; fill: #0550ae } .s1 { stroke: #bc4c00; fill: #bc4c00 } .s2 { stroke: #116329; fill: #116329 }
  .s3 { stroke: #8250df; fill: #8250df } .s4 { stroke: #a40e26; fill: #a40e26 } polyline[class] { fill: none }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #30363d } .s0 { stroke: #79c0ff; fill: #79c0ff }
    .s1 { stroke: #ffa657; fill: #ffa657 } .s2 { stroke: #7ee787; fill: #7ee787 } .s3 { stroke: #d2a8ff; fill: #d2a8ff }
    .s4 { stroke: #ff7b72; fill: #ff7b72 } polyline[class] { fill: none } }"""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4")
Curves = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("key", help="the field that the lines differ in")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    curves = read(options.sweep, options.key)
    write_atomically(options.out, svg(curves, options.key.rpartition(".")[2]))
    print(table(curves, options.key.rpartition(".")[2]))


def read(sweep: Path, key: str) -> Curves:
    """Return the evaluations of each trial, from the one before its first step, by the value of the field, largest first."""
    trials = read_run_json(sweep).trials or {}
    found: Curves = {}
    for name, folder in trial_folders(sweep).items():
        before = read_run_json(folder).before
        scores = [record["evaluation"] for record in read_metrics(folder / "metrics.jsonl") if "evaluation" in record]
        found[str(trials[name]["values"][key])] = [before, *scores]
    return dict(sorted(found.items(), key=lambda one: -float(one[0])))


def svg(curves: Curves, name: str) -> str:
    """Return two panels, of the reward and of the gold score."""
    farthest = max(math.sqrt(max(0.0, one["kl"])) for scores in curves.values() for one in scores)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    lines += [f"<title>reward and gold score against the distance from the start, by {name}</title>", f"<style>{STYLE}\n</style>"]
    for place, (metric, title) in enumerate(METRICS.items()):
        left = LEFT + place * (PANEL + 70)
        marks = ticks(*(f(one[metric] for scores in curves.values() for one in scores) for f in (min, max)))

        def spot(one: dict[str, float], left: int = left, marks: list[float] = marks, metric: str = metric) -> tuple[float, float]:
            up = (one[metric] - marks[0]) / (marks[-1] - marks[0])
            return left + math.sqrt(max(0.0, one["kl"])) / farthest * PANEL, HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

        lines.append(f'<text x="{left}" y="18">{title}</text>')
        for mark in marks:
            y = HEIGHT - BOTTOM - (mark - marks[0]) / (marks[-1] - marks[0]) * (HEIGHT - BOTTOM - TOP)
            lines.append(f'<line class="grid" x1="{left}" x2="{left + PANEL}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
        for mark in range(0, int(farthest) + 1, 2):
            x = left + mark / farthest * PANEL
            lines.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{mark * mark}</text>')
        for number, scores in enumerate(curves.values()):
            spots = [spot(one) for one in scores]
            corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            lines.append(f'<polyline class="s{number % 5}" stroke-dasharray="{DASHES[number % 5]}" points="{corners}"/>')
            lines += [f'<circle class="s{number % 5}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in spots]
    for number, value in enumerate(curves):
        x = LEFT + number * 130
        lines.append(
            f'<polyline class="s{number % 5}" stroke-dasharray="{DASHES[number % 5]}" points="{x},{HEIGHT - 12} {x + 32},{HEIGHT - 12}"/>'
        )
        lines.append(f'<text x="{x + 38}" y="{HEIGHT - 8}">{name} {value}</text>')
    lines.append(f'<text x="{WIDTH - 20}" y="{HEIGHT - 25}" text-anchor="end">kl, nats a response</text>')
    return "\n".join([*lines, "</svg>\n"])


def ticks(low: float, high: float) -> list[float]:
    """Return some round numbers that cover a range."""
    step = 10 ** math.floor(math.log10(high - low))
    step *= 0.2 if (high - low) / step < 2 else 0.5 if (high - low) / step < 5 else 1
    first = math.floor(low / step)
    return [round(number * step, 10) for number in range(first, math.ceil(high / step) + 1)]


def table(curves: Curves, name: str) -> str:
    """Return the last evaluation of each line, and the one with the best gold score."""
    rows = [f"| {name} | reward | gold | kl | best gold, at reward and kl |", "|---|---:|---:|---:|---|"]
    for value, scores in curves.items():
        last, best = scores[-1], max(scores, key=lambda one: one["gold"])
        most = f"{best['gold']:.3f} at {best['reward']:.2f}, {best['kl']:.1f}"
        rows.append(f"| {value} | {last['reward']:.2f} | {last['gold']:.3f} | {last['kl']:.1f} | {most} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
