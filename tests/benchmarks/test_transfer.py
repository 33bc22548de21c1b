"""benchmarks/transfer.py and distillation.py: tables, a figure, conclusions; and the scripts themselves, on tiny models."""

import itertools
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import distillation
import measured_runs
import pytest
import transfer
import transfer_figure
from distillation import ALONE, TAUGHT, TEACHER, Model
from measured_runs import Cost, Measured
from tiny_files import write_rows

from tfkit.data.columns.rows import Row
from tfkit.recipe import read_recipe

ROOT = Path(__file__).parents[2]
BERT = """# A tiny BERT.
model: {preset: bert-tiny, dim: 16, num_heads: 2, context_length: 16}
tokenizer: {kind: wordpiece, vocab_size: 120}
data: {train: [{path: TEXT}]}
objective: {kind: masked_lm}
training: {steps: 2, batch_size: 4}
carbon: {enabled: false}
"""
TASK = """# A tiny task.
model: {from: runs/bert, dropout: {attention: 0.0}}
data: {train: [{path: labelled.jsonl}], validation: 0.3}
objective: {kind: classification}
optimizer: {lr: 1e-2}
schedule: {kind: linear, warmup_steps: 5}
training: {epochs: 1, batch_size: 4, precision: fp32}
evaluation: {every: 1}
"""


def write_task(folder: Path) -> None:
    """Write text, labelled rows, and two recipes."""
    draw = random.Random(1)
    rows = [{"text": " ".join(draw.choices(["the", "cat", "dog", "sat"], k=6)), "label": "good" if n % 3 else "bad"} for n in range(60)]
    write_rows(folder / "labelled.jsonl", rows)
    (folder / "text.txt").write_text("\n".join(row["text"] for row in rows), encoding="utf-8")
    (folder / "bert.yaml").write_text(BERT.replace("TEXT", str(folder / "text.txt")), encoding="utf-8")
    (folder / "task.yaml").write_text(TASK, encoding="utf-8")


def script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these words, in the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TFKIT_CACHE": str(folder / "cache")}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)


SVG = "{http://www.w3.org/2000/svg}"


def point(examples: int, values: list[float], seconds: float, energy: float | None) -> transfer.Point:
    runs = [Measured({"accuracy": value}, 60, Cost(seconds, energy, None), "a machine") for value in values]
    return transfer.Point(examples, values, runs)


POINTS = {
    "fine-tuned": [point(100, [0.7, 0.8], 10, 0.001), point(1000, [0.85, 0.85], 40, 0.004)],
    "random weights": [point(100, [0.5, 0.52], 10, 0.001), point(1000, [0.74, 0.76], 40, 0.004)],
}


def test_the_table_has_means_spreads_and_costs() -> None:
    head, _, first, _, _, last = transfer.table(POINTS, "accuracy").splitlines()
    assert head.split(" | ")[2] == "accuracy"
    assert first == "| 100 | fine-tuned | 0.750 ± 0.071 | 60 | 10 | 0.001 | - |"
    assert last == "| 1,000 | random weights | 0.750 ± 0.014 | 60 | 40 | 0.004 | - |"


def test_the_conclusion_compares_at_equal_quality_and_says_so_where_there_is_none() -> None:
    text = transfer.conclusion(POINTS, "accuracy", 0.5)
    assert "best accuracy is 0.750, with 1,000 examples" in text
    assert "Fine-tuning reaches 0.750 with 100, in 25% of the time and with 25% of the energy." in text
    worse = {"fine-tuned": [point(100, [0.1], 1, None)], "random weights": [point(100, [0.5], 1, None)]}
    assert "none of these numbers" in transfer.conclusion(worse, "accuracy", None)
    assert "nothing is learned" in transfer.conclusion(worse, "accuracy", 0.5)


def test_the_shared_cost_is_stated_or_said_to_be_unknown() -> None:
    def totals(seconds: float, energy: float, emissions: float | None = 1, **more: float) -> dict[str, Any]:
        return {"totals": {"seconds": seconds, "energy_kwh": energy, "emissions_g": emissions, **more}}

    def of_one(tuned: float | None, scratch: float | None) -> dict[str, list[transfer.Point]]:
        return {"fine-tuned": [point(100, [0.9], 1, tuned)], "random weights": [point(100, [0.8], 1, scratch)]}

    said = transfer.shared_cost(totals(2000.0, 0.012, None, train_seconds=1234.5), POINTS)
    assert "1,234 seconds, 0.012 kWh and - gCO2e" in said
    assert "each fine-tuned task saves 0.003 kWh, so the energy of the pretraining is recovered after 4 tasks." in said
    assert "saves no energy here" in transfer.shared_cost(totals(1, 0.012), of_one(0.005, 0.004))
    assert transfer.shared_cost(totals(1, 1), of_one(None, None)).endswith("not included in the table.")
    assert "not known" in transfer.shared_cost(None, POINTS)


def test_the_figure_is_an_svg_in_which_higher_is_better_and_each_decade_as_wide() -> None:
    points = {kind: [*series, point(10_000, [0.9], 1, None)] for kind, series in POINTS.items()}
    root = ElementTree.fromstring(transfer_figure.svg(points, "accuracy", 0.5))
    lines = [line.attrib["points"] for line in root.iter(f"{SVG}polyline")]
    assert len(lines) == 2
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, cropped.split(","))) for cropped in lines[0].split())
    assert y0 > y1 > y2  # down the page is less
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert (y1 - y2) / (y0 - y1) == pytest.approx((0.9 - 0.85) / (0.85 - 0.75), abs=0.02)
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"labelled examples", "accuracy", "fine-tuned", "random weights", "100", "10,000", "most frequent class"} <= {*words}
    assert "prefers-color-scheme: dark" in transfer_figure.svg(points, "accuracy", None)


def test_all_of_the_figure_lies_within_it() -> None:
    draw = random.Random(1)
    for _ in range(50):
        low = draw.uniform(0, 0.98)
        series = [point(size, [draw.uniform(low, 1) for _ in range(3)], 1, None) for size in (8, 100, 9000)]
        root = ElementTree.fromstring(transfer_figure.svg({"fine-tuned": series, "random weights": series}, "f1", draw.choice([None, 0.1])))
        for circle in root.iter(f"{SVG}circle"):
            assert 0 <= float(circle.attrib["cx"]) <= transfer_figure.WIDTH
            assert 0 <= float(circle.attrib["cy"]) <= transfer_figure.HEIGHT - transfer_figure.BOTTOM


def test_the_ends_of_an_axis_are_beyond_all_values_at_whole_steps() -> None:
    for values in ([0.5, 0.82], [0.0, 0.0], [0.3], [0.499, 0.501], [0.0, 1.0], [3.0, 41.0]):
        low, high, step = transfer_figure.ticks(values)
        assert low - 1e-9 <= min(values) <= max(values) <= high + 1e-9
        assert 1 <= round((high - low) / step) <= 8
        assert math.isclose(low / step, round(low / step), abs_tol=1e-6)


def test_larger_subsets_hold_the_smaller_ones_and_seeds_draw_others() -> None:
    rows = [Row(str(number), "", {"text": str(number), "label": "ab"[number % 2]}) for number in range(50)]
    small, large = (transfer.subset(rows, size, 1) for size in (8, 20))
    assert large[:8] == small
    assert transfer.subset(rows, 8, 2) != small
    assert transfer.sizes("8,30,100,all", 50) == [8, 30, 50]
    assert measured_runs.all_labels(rows[:1] + rows[3:4]) == ["a", "b"]


def test_the_majority_is_the_training_rows_and_is_judged_by_the_others() -> None:
    rows = [Row("", "", {"text": "x", "label": label}) for label in "aab"]
    assert measured_runs.majority(rows, [rows[0], rows[2], rows[2], rows[2]]) == 0.25
    assert measured_runs.majority([Row("", "", {"tokens": ["x"], "tags": ["O"]})], rows) is None


def test_numbers_and_spreads() -> None:
    assert [measured_runs.number(value) for value in (None, 0.0, 0.001234, 12.0)] == ["-", "0", "0.0012", "12"]
    assert measured_runs.spread([0.5]) == "0.500"
    assert measured_runs.mean_cost([Cost(1, 2.0, 1.0), Cost(3, 4.0, None)]) == Cost(2, 3.0, None)


@pytest.mark.slow  # some ten processes of tfkit
def test_the_script_runs_writes_its_page_and_reuses_what_is_finished(tmp_path: Path) -> None:
    write_task(tmp_path)
    assert script(tmp_path, "-m", "tfkit", "pretrain", "bert.yaml", "--run", "runs/bert", "--threads", "1").returncode == 0
    words = [transfer.__file__, "task.yaml", "--sizes", "8,16", "--seeds", "1", "--least-steps", "2", "--threads", "1"]
    words += ["--set", "carbon.enabled=false", "--out", "page.md"]
    done = script(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.count("| fine-tuned |") == page.count("| random weights |") == 2
    assert "Always predicting the most frequent class gives 0." in page
    assert "The pretraining of the checkpoint cost" in page
    ElementTree.parse(tmp_path / "page.svg")
    for size in (8, 16):
        paths = (
            path for kind in ("fine-tuned", "random-weights") for path in tmp_path.glob(f"runs/transfer/{kind}-{size}-seed1-*/recipe.yaml")
        )
        tuned, scratch = (read_recipe(str(path)).recipe for path in paths)
        assert (bool(tuned.model.start), scratch.model.start) == (True, None)
        assert tuned.model.changes == scratch.model.changes  # head and all
        assert (tuned.training, tuned.data) == (scratch.training, scratch.data)
    assert not list(tmp_path.glob("runs/transfer/*/checkpoints"))  # scored, and removed
    again = script(tmp_path, *words)
    assert (again.returncode, again.stderr) == (0, "")  # no run was begun
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page
    pair = [*words, "--validation", "labelled.jsonl", "--pair", "8,16"]
    for _ in range(2):  # the second time nothing is run again
        done = script(tmp_path, *pair)
        assert done.returncode == 0, done.stderr
        extended = (tmp_path / "page.md").read_text(encoding="utf-8")
        assert extended.startswith(page.rstrip())
        assert extended.count("## At equal validation loss") == 1
        assert "until a validation score was reached" in extended
        assert "    fine-tuned-8-seed1-" in extended


def test_a_section_is_put_between_its_markers_or_at_the_end_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nText.\n", encoding="utf-8")
    transfer.write_between(page, transfer.indented("one\n\n  two  \n"))
    expected = f"# Page\n\nText.\n\n{transfer.BEGIN}\n    one\n\n      two\n{transfer.END}\n"
    assert page.read_text(encoding="utf-8") == expected
    page.write_text(f"{expected}\nMore.\n", encoding="utf-8")
    transfer.write_between(page, "three")
    assert page.read_text(encoding="utf-8") == f"# Page\n\nText.\n\n{transfer.BEGIN}\nthree\n{transfer.END}\n\nMore.\n"


# -- distillation.py


COST = Cost(10, 0.001, 0.5)
MODELS = {TEACHER: Model([0.8, 0.9], 1000, None), TAUGHT: Model([0.8, 0.84], 500, COST, 1.8), ALONE: Model([0.7, 0.72], 500, COST, 1.8)}


def test_the_table_has_what_each_keeps_of_the_lead_over_the_majority() -> None:
    _, _, teacher, taught, alone, *_ = distillation.table(MODELS, 0.5).splitlines()
    assert teacher == "| teacher | 1,000 | 0.850 ± 0.071 | 100% | 1 | - | - | - |"
    assert taught == "| student with its teacher | 500 | 0.820 ± 0.028 | 91% | 1.80 | 10 | 0.001 | 0.5 |"
    assert "| 60% |" in alone


def test_the_conclusion_says_what_does_not_hold() -> None:
    assert distillation.conclusion(MODELS, 0.5).count(": yes") == 3
    text = distillation.conclusion(MODELS | {TAUGHT: Model([0.7], 500, COST, 0.9)}, 0.5)
    assert text.count(": NO") == 3
    assert "keeps 57% of the teacher's lead over the majority with 50% of its parameters: NO" in text
    assert "is -0.010 beside the same student without a teacher" in text
    assert "reads 0.90 times as fast: NO" in text
    assert "nothing to keep" in distillation.conclusion(MODELS, 0.9)


def test_the_ratio_of_two_is_that_of_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate(itertools.cycle([0.5, 5.0, 2.0]))  # between rounds, of the first, of the second
    monkeypatch.setattr(distillation.time, "perf_counter", lambda: next(clock))
    assert distillation.median_ratio(lambda: None, lambda: None, 5) == 2.5


STUDENT = """# A tiny student.
model: {preset: distilbert-base, encoder_layers: 1, dim: 8, num_heads: 2, hidden_dim: 16, context_length: 16}
tokenizer: {path: runs/bert}
data: {train: [{path: TEXT}]}
objective: {kind: distillation, teacher: runs/bert, of: {kind: masked_lm}, temperature: 2}
training: {steps: 2, batch_size: 4, precision: fp32}
"""


@pytest.mark.slow  # some ten processes of tfkit
def test_the_script_trains_compares_and_reuses_what_is_finished(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "student.yaml").write_text(STUDENT.replace("TEXT", str(tmp_path / "text.txt")), encoding="utf-8")
    assert script(tmp_path, "-m", "tfkit", "pretrain", "bert.yaml", "--run", "runs/bert", "--threads", "1").returncode == 0
    words = [distillation.__file__, "--teacher", "runs/bert", "--student", "student.yaml", "--task", "task.yaml", "--seeds", "1"]
    words += ["--threads", "1", "--rounds", "3", "--out", "page.md", "--set", "carbon.enabled=false"]
    done = script(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| teacher", "| student"))]
    parameters = [int(row[1].replace(",", "")) for row in rows]
    assert len(rows) == 3
    assert parameters[1] == parameters[2] < 0.6 * parameters[0]
    recipes = [path.read_text(encoding="utf-8") for path in tmp_path.glob("runs/distillation/student*/recipe.yaml")]
    assert sorted(recipe.count("kind: distillation") for recipe in recipes) == [0, 1]
    again = script(tmp_path, *words)
    assert (again.returncode, "finetune" in again.stderr) == (0, False)  # only the students' results are asked for again
