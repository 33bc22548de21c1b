"""The page: one file without script or requests, whatever names, texts and numbers the run folders hold."""

import json
import re
import shutil
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_files import read_json
from tiny_runs import run_here
from written_runs import write_run

from tfkit.__main__ import main
from tfkit.reporting.html_page import environment, html_page
from tfkit.reporting.page_charts import thin, ticks, time_ticks
from tfkit.reporting.page_facts import score_tables
from tfkit.reporting.report_document import report_csv, report_document
from tfkit.reporting.run_set import open_runs
from tfkit.reporting.terminal_report import terminal_report
from tfkit.reporting.visible_text import shareable, visible

HOSTILE = '<script>alert("1")</script> "\' onload=x & </style></title>\x1b[2J\u202eevil\ud800\x00'
VOID = {"meta", "br"}
PLANNED: dict[str, Any] = {"seconds": {"low": 20, "likely": 40, "high": 80}, "memory_bytes": 2_000_000, "flops": 5e9}
PLANNED |= {"energy_kwh": {"low": 0.01, "likely": 0.02, "high": 0.05}}
RATED = "data: {train: [{path: /home/ada/secret/rows.csv}]}\noptimizer: "
PARENTS = [{"role": "start", "path": "/home/ada/base", "run_id": "base", "sha256": "0"}]


class Page(HTMLParser):
    """The tags, attributes and texts of a page; raises for what is not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.heading = 0  # the number of texts up to the latest one
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "h2":
            self.heading = len(self.texts)
        if tag == "section":
            assert "".join(self.texts[self.heading :]).strip(), "a section without content"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    @property
    def shown(self) -> str:
        """The text as it is read, with single spaces."""
        return " ".join(self.text.split())


def page(*paths: Path, full: bool = False) -> tuple[str, Page]:
    text = html_page(open_runs(paths), full=full, today=date(2026, 11, 26))
    return text, Page(text)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A base, a run that was fine-tuned from it, one from scratch, and one that failed, with a forecast each."""
    folder = tmp_path / "runs"
    data = {"data": {"validation": ["rows"]}, "predicted": PLANNED}
    write_run(folder / "base", run_id="base", evaluations={1: 4.0, 3: 3.5}, grams_a_step=10.0, **data)
    texts = {"step": 3, "samples": [{"prompt": "def ", "completion": "x" * 5000}]}
    tuned = {"kind": "fine-tuning", "parents": PARENTS, "before": {"loss": 3.5}, "recipe": RATED + "{lr: 1.0e-3}\n", "more": [texts]}
    write_run(folder / "tuned", evaluations={1: 3.2, 3: 2.5}, **tuned, **data)
    scratch = {"losses": range(20, 0, -1), "setup_g": 2.0, "recipe": RATED + "{lr: 2.0e-3}\n"}
    write_run(folder / "scratch", evaluations={10: 4.0, 20: 3.0}, **scratch, **data)
    write_run(folder / "broken", status="failed")
    return folder


def test_a_page_has_all_parts_and_no_script_or_request(runs: Path) -> None:
    text, found = page(runs)
    titles = ["What was trained on what", "Result", "Learning", "Samples", "At equal score", "Energy and CO2e", "Lineage", "Recipes"]
    assert [one for one in found.texts if one in titles] == [*titles, *titles]  # in the list of links, and as headings
    ids = [value for name, value in found.attributes if name == "id"]
    assert [value for name, value in found.attributes if name == "href"] == [f"#{name}" for name in ids]
    assert len({*ids}) == len(ids) == len(titles)
    for words in (
        *("training loss", "validation loss", "learning rate", "gradient norm", "tokens per second", "power", "By phase"),
        *("2 MB", "5e+09", "loss over CO2e spent", "Forecast and measured", "Differences of the recipes", "Lineage of tuned"),
        *("text of 5,000 characters, of which 2,000 are shown", "never reached", "3 g (33 g)", "CPU model, RAM constant"),
    ):
        assert words in found.shown, words
    assert {"script", "link", "img", "iframe", "object", "base", "form"}.isdisjoint(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "action", "xlink:href")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in found.attributes
    assert not re.search(r"https?:|url\(|@import|javascript:", text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert found.tags.count("svg") >= found.attributes.count(("role", "img")) > 8
    assert found.tags.count("h1") == 1
    assert all(name in text for name in ("prefers-color-scheme: dark", "@media print"))


def test_what_was_trained_and_the_scores_of_the_best_the_others_and_baselines(tmp_path: Path) -> None:
    """In one picture for the runs that were evaluated on the same rows; paths are shown only if asked for."""
    folder = tmp_path / "runs"
    result = {"baselines": {"naive_bayes": {"accuracy": 0.5}, "most_frequent_class": {"loss": 0.7}}}
    for number, (name, value) in enumerate({"low": 0.6, "high": 0.9, "middle": 0.7, "elsewhere": 0.95}.items(), 1):
        recipe = {
            "model": {"from": "/home/ada/base/checkpoints/step-000003"},
            "data": {"train": [{"path": "/home/ada/secret/reviews.csv"}, {"hub": "org/more"}]},
            "objective": {"kind": "classification"},
            "optimizer": {"lr": number / 1000},
        }
        data = {"validation": ["other rows" if name == "elsewhere" else "rows"]}
        write_run(folder / name, data=data, result=result, recipe=recipe, best=(3, "accuracy", value))
    assert all(entry.run.listed.best is not None for entry in open_runs([folder]).entries)
    text, found = page(folder)
    for words in (
        "trained on reviews.csv, org/more objective classification length 3 steps",  # what all have in common
        "run learning rate elsewhere 0.004 high 0.002 low 0.001 middle 0.003",
        "model accuracy elsewhere (this run) 0.95 naive bayes (baseline) 0.5",
        "model accuracy high (best run) 0.9 middle (run) 0.7 low (run) 0.6 naive bayes (baseline) 0.5",
    ):
        assert words in found.shown, found.shown
    assert "/home/ada" not in text
    assert "/home/ada/secret/reviews.csv" in page(folder, full=True)[0]
    title = "accuracy (higher is better): classification of reviews.csv, org/more"
    assert [one for one in found.texts if one == title] == [title] * 2


@pytest.mark.parametrize(("file", "shown"), [("{}.jsonl", "few.jsonl many.jsonl"), ("{}/rows.jsonl", "rows.jsonl rows.jsonl")])
def test_runs_on_different_rows_are_compared_by_the_held_out_rows_and_differ_in_the_fields_of_sources(
    tmp_path: Path, file: str, shown: str
) -> None:
    """The title named the training rows of the best run for all; a difference beyond the first letters of a long list was left out."""
    folder = tmp_path / "runs"
    for name, loss in {"few": 3.0, "many": 2.0}.items():
        sources = [{"path": f"part-{number}.jsonl", "weight": None, "text": "x" * 90} for number in range(4)]
        data = {"train": [*sources, {"path": file.format(name)}], "validation": [{"path": "test.jsonl"}]}
        recipe = {"data": data, "objective": {"kind": "causal_lm"}}
        write_run(folder / name, data={"validation": ["test"]}, evaluations={3: loss}, recipe=recipe)
    found = page(folder)[1]
    assert "loss (lower is better): causal_lm of test.jsonl" in found.texts
    assert f"Differences of the recipes key few many data.train.4.path {shown}" in found.shown


CONFUSION = {"good": {"good": 8, "bad": 2}, "bad": {"good": 5, "bad": 15}}


def write_task(folder: Path, best: tuple[int, str, float] = (2, "accuracy", 0.75), **fields: Any) -> Path:
    """Write a fine-tuning of a classifier whose best checkpoint is that of step 2 of 3."""
    records = [
        {"step": 0, "samples": [{"prompt": "A", "completion": " first"}]},
        {"step": 2, "evaluation": {"accuracy": 0.75, "f1_macro": 0.7, "loss": 0.5}, "confusion": CONFUSION},
        {"step": 3, "evaluation": {"accuracy": 0.5, "f1_macro": 0.4, "loss": 0.9}, "confusion": {"good": {"bad": 99}}},
        {"step": 3, "samples": [{"prompt": "A", "completion": " last"}]},
        *fields.pop("more", ()),
    ]
    return write_run(folder, evaluations={}, kind="fine-tuning", before={"accuracy": 0.25}, best=best, more=records, **fields)


def test_the_page_of_a_run_says_at_once_how_good_it_is_and_what_was_trained_on_what(tmp_path: Path) -> None:
    result = {"baselines": {"naive_bayes": {"accuracy": 0.6}, "most_frequent_class": {"accuracy": 0.5}}, "new_head": True}
    sizes = {"train": {"rows": 720, "tokens": 18_300}, "validation": {"rows": 80, "tokens": 2_000}}
    recipe = {
        "model": {"from": "/home/ada/base", "encoder_layers": 6, "decoder_layers": 0, "dim": 384},
        "data": {"train": [{"path": "/home/ada/rows.csv"}], "validation": 0.1},
        "objective": {"kind": "classification"},
        "optimizer": {"kind": "adamw", "lr": 0.0005},
        "schedule": {"kind": "linear", "warmup_ratio": 0.1},
        "training": {"batch_size": 32, "epochs": 2.0},
    }
    path = write_task(tmp_path / "run", result=result, data_sizes=sizes, device="cpu", rate_trial={"lr": 0.0005}, recipe=recipe)
    text, found = page(path)
    begin = "finetune, finished run accuracy 0.75 beats naive bayes: 0.6 before training, new head: 0.25 step 2 of 3"
    assert "<title>run: accuracy 0.75</title>" in text
    for words in (
        begin,
        "layers 6 encoder, of width 384 started from base trained on rows.csv: 720 rows, 18.3k tokens",
        "held out 10% of the rows: 80 rows, 2k tokens objective classification optimizer adamw learning rate 0.0005, found by trial",
        "schedule linear, 10% warm-up batch 32 rows length 3 steps, 2 epochs computed on cpu",
        "accuracy run (this run) 0.75 naive bayes (baseline) 0.6 most frequent class (baseline) 0.5",
        "before training, new head (untouched) 0.25",
        "metric best checkpoint before training naive bayes most frequent class accuracy 0.75 0.25 0.6 0.5 f1 macro 0.7 loss 0.5",
        "run, best checkpoint: 0.75",  # the mark in the chart
        "step 0 A first step 3 A last",
        "right class recall good bad good 80% 8 2 bad 75% 5 15",
    ):
        assert words in found.shown, words
    widths = [float(value[6:-1]) for name, value in found.attributes if name == "style" and value.startswith("width:") and "%" in value]
    assert widths[:4] == pytest.approx([100, 80, 66.7, 33.3])
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_a_run_whose_best_checkpoint_has_the_lowest_loss_is_compared_by_the_metric_of_its_baselines(tmp_path: Path) -> None:
    result = {"baselines": {"naive_bayes": {"accuracy": 0.8}}}
    _, found = page(write_task(tmp_path / "run", best=(2, "loss", 0.5), result=result))
    assert "run accuracy 0.75 does not beat naive bayes: 0.8 before training: 0.25 step 2 of 3" in found.shown
    assert "naive bayes (baseline) 0.8 run (this run) 0.75 before training (untouched) 0.25" in found.shown
    assert "run, best checkpoint: 0.75" in found.shown.partition("More curves")[0]


def test_many_classes_are_the_pairs_that_are_confused_most(tmp_path: Path) -> None:
    confusion = {f"c{right}": {f"c{right}": 100, f"c{right + 1}": right} for right in range(40)}
    path = write_run(tmp_path / "evaluated", kind="evaluate", result={"metrics": {"accuracy": 0.8}, "confusion": confusion})
    _, found = page(path)
    pairs = " ".join(f"c{right} c{right + 1} {right}" for right in range(39, 27, -1))
    assert f"right class predicted how often {pairs} Energy and CO2e" in found.shown


JSON = st.recursive(
    st.none() | st.integers(-5, 5) | st.floats() | st.text(max_size=3), lambda inner: st.dictionaries(st.text(max_size=3), inner)
)


@pytest.mark.thorough
@settings(deadline=None, max_examples=15)
@given(JSON)
@example({"a": {"a": 10**400}})
@example({"a": {}})
@example({HOSTILE: {HOSTILE: 1, "b": 0}})
@example({f"{number}": {} for number in range(800)})
def test_any_confusion_has_a_page(tmp_path_factory: pytest.TempPathFactory, confusion: object) -> None:
    record = {"step": 2, "evaluation": {"accuracy": 0.75}, "confusion": confusion}
    text, found = page(write_task(tmp_path_factory.mktemp("runs") / "run", more=[record]))
    assert len(text) < 1_000_000
    assert "script" not in found.tags


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=4), st.sampled_from(["accuracy", "loss"]))
def test_runs_and_baselines_are_ranked_by_their_scores(tmp_path_factory: pytest.TempPathFactory, values: list[float], metric: str) -> None:
    """The better one first, with bars between nothing and the whole width."""
    folder = tmp_path_factory.mktemp("runs")
    for number, value in enumerate(values):
        result = {"baselines": {"guess": {metric: 0.5}}}
        write_run(folder / f"run{number}", result=result, ledger=False, best=(3, metric, value))
    tables = score_tables(open_runs([folder]).trained, full=False)
    known = {value for value in values if abs(value) < 1e30}
    assert len(tables) == bool(known)
    for _, table in tables:
        shown = [float(row[1]) for row in table.rows]
        assert shown == sorted(shown, reverse=metric == "accuracy")
        assert {f"{value:.4g}" for value in {*known, 0.5}} == {row[1] for row in table.rows}
        assert all(0 <= fraction <= 1 for fraction, _ in table.bars)


def test_places_are_left_out_unless_asked(runs: Path) -> None:
    text, _ = page(runs)
    assert not [secret for secret in ("secret-host", "/home/ada", str(runs), "secret/rows", "secret.yaml") if secret in text]
    assert "path: rows.csv" in text
    text, found = page(runs, full=True)
    assert [secret for secret in ("secret-host", "/home/ada/secret.yaml", str(runs)) if secret not in found.text] == []


def test_hostile_names_texts_and_numbers_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "_").replace("\x00", "").replace("\ud800", "")
    totals: dict[str, Any] = dict.fromkeys(("seconds", "energy_kwh", "emissions_g"), 1e308)
    totals |= {"place": HOSTILE, "provenance": {HOSTILE: HOSTILE, "cpu": HOSTILE}}
    more = [
        {"step": 4, "samples": [{"prompt": HOSTILE, "completion": HOSTILE + "y" * 10_000_000}]},
        {"step": 4, "evaluation": {HOSTILE: 1e300, "loss": -1e308, "x": None}, "nonfinite": {"evaluation.x": "nan"}},
        {"step": 10**400, "loss": 1.0},
        {"step": 5, "loss": 1e308, "lr": -1e308},
    ]
    parents = [{"role": HOSTILE, "path": HOSTILE, "run_id": HOSTILE}]
    recipe = {"data": {"a": HOSTILE.replace("\ud800", "").replace("\x00", "")}}
    facts: dict[str, Any] = {"predicted": PLANNED, "parents": parents, "status": HOSTILE, "kind": HOSTILE}
    path = write_run(tmp_path / name, **facts, recipe=recipe, more=more)
    (path / "run.json").write_text(json.dumps(read_json(path / "run.json") | {"totals": totals}))
    text, found = page(path)
    assert "script" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not [one for one in text if one in "\x1b\u202e\x00\ud800"]
    assert len(text) < 1_000_000
    assert sum("<script>" in one for one in found.texts) > 3
    assert "of 10,0" in found.text  # the length of the text that was cut


def test_a_run_in_progress_and_damaged_ones_have_a_page(tmp_path: Path) -> None:
    begun = write_run(tmp_path / "begun", status="running", totals=False, losses=[], ledger=False)
    assert "pretrain, killed begun killed" in page(begun)[1].shown  # the answer is that there is none
    path = write_run(tmp_path / "damaged")
    (path / "run.json").write_text("{")
    _, found = page(tmp_path)
    assert "damaged: run.json: " in found.text
    shutil.rmtree(path)
    _, found = page(tmp_path)
    assert "h2" in found.tags


def test_long_runs_make_short_pages(tmp_path: Path) -> None:
    """Nine runs of fifteen hundred steps, long names of files and many samples, of which eight are drawn; a peak of one step is kept."""
    recipe = {"data": {"train": [{"path": f"/home/ada/{number:0>150}.csv"} for number in range(300)]}, "model": {"from": "x" * 10_000}}
    pairs = [{"prompt": f"{number}", "completion": "<" * 3_000} for number in range(12)]
    losses = [1.0 + step % 7 for step in range(1500)]
    losses[1234] = 99.0
    more = [{"step": step, "samples": pairs} for step in range(1500, 1530)]
    for index in range(9):
        evaluations = dict.fromkeys(range(0, 1500, 10), 1.0)
        write_run(tmp_path / f"run-{index:02d}", losses=losses, evaluations=evaluations, recipe=recipe, more=more)
    text, found = page(tmp_path)
    assert len(text) < 1_500_000  # nearly all of it recipes, and samples of which each character is escaped
    assert "1 of 9 runs are only in the tables." in found.texts
    points = [(float(step), loss) for step, loss in enumerate(losses)]
    assert (1234.0, 99.0) in thin(points, 100)
    assert len(thin(points, 100)) <= 400


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (2.2, 2.4), (-3.0, 7e9), (1e-9, 2e-9), (1e-13, 3e-13), (5.0, 5.0), (0.0, 0.0), (-1e29, 1e29)]
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert found == sorted(found)
    assert found[0] <= low
    assert found[-1] >= high
    assert time_ticks(0.0, 55.0, 4) == [0.0, 15.0, 30.0, 45.0, 60.0]
    assert time_ticks(0.0, 7000.0, 4) == [0.0, 1800.0, 3600.0, 5400.0, 7200.0]


@settings(deadline=None)
@given(st.text() | st.text(alphabet=HOSTILE))
@example(HOSTILE)
def test_every_text_of_a_template_is_shown_as_it_is_in_content_and_attributes(text: str) -> None:
    """Also one that has passed through a macro; control characters are shown as codes."""
    source = "{% macro quoted(a) %}<p title=\"{{ a }}\">{{ a | short(1000) }}</p>{% endmacro %}{{ quoted(text) }}<br class='{{ text }}'>"
    found = Page(environment().from_string(source).render(text=text))
    shown = visible(text, lines=True)
    assert found.tags == ["p", "br"]
    assert found.attributes == [("title", shown), ("class", shown)]
    assert "".join(found.texts) == shown


def test_no_template_marks_a_text_as_safe_and_coordinates_are_rounded() -> None:
    names, loader = environment().list_templates(extensions=["jinja"]), environment().loader
    assert {"page.html.jinja", "head.html.jinja", "style.css.jinja"} <= set(names)
    for name in names:
        source = loader.get_source(environment(), name)[0]
        assert not re.search(r"\bsafe\b|autoescape|Markup|\w=\{\{", source)  # an attribute without quotes would not be protected
    template = environment().from_string("{{ a }} {{ a * 2 }} {{ b }} {{ [(b, a)] | corners }} {{ 'abcde' | short(4) }}")
    assert template.render(a=1.04, b=1234567) == "1 2.1 1234567 1234567.0,1.0 a..."
    assert visible("a\tb\nc\x7f\u2028d é 🙂") == "a b c\\x7f\\u2028d é 🙂"


def test_paths_become_names() -> None:
    kept = ("hub: org/name-1.5B and 3/4 g/kWh", "https://example.org/a/b.html", "runs/demo/checkpoints/step-000500/")
    for text, without in {
        "/home/ada/runs/x/run.json: no such file": "run.json: no such file",
        "path: ~/data/rows.csv, from: ../base": "path: rows.csv, from: base",
        r"C:\Users\ada\rows.csv": "rows.csv",
        "corpus/a/b.txt:3": "b.txt:3",
        "/x/demo/checkpoints/step-000500": "demo",
        **{text: text for text in kept},
    }.items():
        assert shareable(text, full=False) == without
        assert shareable(text, full=True) == text


def test_the_file_is_never_written_over_anything_else(runs: Path, tmp_path: Path) -> None:
    target, other, checkpoint = tmp_path / "page.html", tmp_path / "notes.txt", runs / "base" / "checkpoints" / "step-000003"
    for _ in range(2):  # the second page replaces the first
        done = run_here(["report", runs, "--html", target])
        assert (done.code, done.out, done.err) == (0, "", f"wrote {target}\n")
    Page(target.read_text(encoding="utf-8"))
    other.write_text("mine")
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    within = [folder / "page.html" for folder in (runs / "base", runs / "base" / "carbon", checkpoint)]
    refused = dict.fromkeys((other, runs / "base" / "metrics.jsonl"), "exists, and is not a page")
    refused |= dict.fromkeys(within, "where nothing else belongs")
    for path, words in (refused | {tmp_path: "is a folder", tmp_path / "none" / "page.html": "there is no folder"}).items():
        before = path.read_bytes() if path.is_file() else None
        run_here(["report", runs, "--html", path]).exits(2, words)
        assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    "value",
    [10**400, {"a": [10**400]}, *(pytest.param(value, marks=pytest.mark.slow) for value in (-1e308, True, [], "x" * 10_000, None))],
    ids=lambda value: str(value)[:12],
)
def test_no_value_of_a_receipt_raises_anything(tmp_path: Path, value: object) -> None:
    """Every field of run.json and of its totals, forecast, result and attempts in turn; all forms, `runs` and `verify` are tried."""
    result = {"metrics": {"loss": 1.0}, "steps": 3, "checkpoint": "x", "baselines": {"guess": {"loss": 2.0}}, "confusion": CONFUSION}
    facts = {"data_sizes": {"train": {"rows": 3, "tokens": 9}}, "processor": {"name": "x"}, "rate_trial": {"lr": 0.1}, "device": "cpu"}
    plan = {"seconds": PLANNED["seconds"]}
    facts |= {"predicted": plan, "result": result, "parents": PARENTS, "before": {"loss": 3.0}}
    path = write_run(tmp_path / "run", evaluations={1: 2.0, 3: 1.0}, **facts)
    write_run(tmp_path / "other", evaluations={3: 1.0})
    whole = read_json(path / "run.json")
    places: list[tuple[str, ...]] = [(name,) for name in whole]
    places += [(name, inner) for name in ("totals", "predicted", "result", "before") for inner in whole[name]]
    known = ("intensity", "provenance", "coverage", "place", "energy_kwh_low", "energy_kwh_high", "rework_g")
    places += [("totals", name) for name in known] + [("predicted", "seconds", end) for end in plan["seconds"]]
    places += [("result", "metrics", "loss"), ("result", "baselines", "guess"), ("processor", "name"), ("data", "validation"), ("data",)]
    places += [("data_sizes", "train"), ("data_sizes", "train", "rows")]
    for place in places:
        document = json.loads(json.dumps(whole))
        inner = document
        for name in place[:-1]:
            inner = inner.setdefault(name, {})
        inner[place[-1]] = value
        (path / "run.json").write_text(json.dumps(document))
        assert main(["runs", str(tmp_path)]) == 0, place
        assert main(["verify", str(path)]) == 4, place  # it has no checkpoint
        runs = open_runs([tmp_path])
        Page(html_page(runs, full=True, today=date(2026, 11, 26)))
        assert terminal_report(runs, 80)
        assert json.dumps(report_document(runs, full=True), allow_nan=False)
        assert report_csv(runs, full=False)
