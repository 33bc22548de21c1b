"""The page: one file without script or requests, whatever names, texts and numbers the run folders hold."""

import json
import re
import shutil
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from written_runs import write_run

from tfkit.__main__ import main
from tfkit.reporting.chart_scales import thin, ticks, time_ticks
from tfkit.reporting.html_page import environment, html_page
from tfkit.reporting.report_document import report_csv, report_document
from tfkit.reporting.run_set import open_runs
from tfkit.reporting.terminal_report import terminal_report
from tfkit.reporting.visible_text import shareable, visible

HOSTILE = '<script>alert("1")</script> "\' onload=x & </style></title>\x1b[2J\u202eevil\ud800\x00'
VOID = {"meta", "br"}
PLANNED = {
    "seconds": {"low": 20, "likely": 40, "high": 80},
    "energy_kwh": {"low": 0.01, "likely": 0.02, "high": 0.05},
    "memory_bytes": 2_000_000,
    "flops": 5e9,
}
PARENTS = [{"role": "start", "path": "/home/ada/base", "run_id": "base", "sha256": "0"}]


class Page(HTMLParser):
    """The tags, attributes and texts of a page; raises for what is not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
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

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def page(*paths: Path, full: bool = False) -> tuple[str, Page]:
    text = html_page(open_runs(paths), full=full, today=date(2026, 11, 26))
    return text, Page(text)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A base, a run that was fine-tuned from it, one from scratch, and one that failed, with a forecast each."""
    folder = tmp_path / "runs"
    data = {"data": {"validation": ["rows"]}, "predicted": PLANNED}
    write_run(folder / "base", run_id="base", evaluations={1: 4.0, 3: 3.5}, grams_a_step=10.0, **data)
    tuned = write_run(folder / "tuned", evaluations={1: 3.2, 3: 2.5}, kind="fine-tuning", parents=PARENTS, before={"loss": 3.5}, **data)
    scratch = write_run(folder / "scratch", losses=range(20, 0, -1), evaluations={10: 4.0, 20: 3.0}, setup_g=2.0, **data)
    for path, rate in ((tuned, "1.0e-3"), (scratch, "2.0e-3")):
        (path / "recipe.yaml").write_text(f"data: {{train: [{{path: /home/ada/secret/rows.csv}}]}}\noptimizer: {{lr: {rate}}}\n")
    with (tuned / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "samples": [{"prompt": "def ", "completion": "x" * 5000}]}) + "\n")
    write_run(folder / "broken", status="failed")
    return folder


def test_a_page_has_all_parts_and_no_script_or_request(runs: Path) -> None:
    text, found = page(runs)
    titles = ["Runs", "Learning", "At equal score", "Energy and CO2e", "Forecast and measured", "Lineage"]
    titles += ["How the energy was obtained", "Samples", "Differences of the recipes", "Recipes"]
    assert [one for one in found.texts if one in titles] == titles
    for words in (
        *("training loss", "validation loss", "learning rate", "gradient norm", "tokens per second", "power", "CO2e by phase"),
        *("2 MB", "5e+09", "loss over CO2e spent", "forecast and measured time", "forecast and measured energy", "Lineage of tuned"),
        *("text of 5,000 characters, of which 2,000 are shown", "never reached", "3 g (33 g)", "CPU model, RAM constant"),
    ):
        assert any(words in one for one in found.texts), words
    assert {"script", "link", "img", "iframe", "object", "base", "form"}.isdisjoint(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href", "action", "xlink:href")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in found.attributes
    assert not re.search(r"https?:|url\(|@import|javascript:", text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert found.tags.count("svg") >= found.attributes.count(("role", "img")) > 10
    assert found.tags.count("h1") == 1
    assert all(name in text for name in ("prefers-color-scheme: dark", "@media print"))


def test_what_was_trained_and_the_scores_of_the_best_the_others_and_baselines(tmp_path: Path) -> None:
    """In one picture for the runs that were evaluated on the same rows; paths are shown only if asked for."""
    folder = tmp_path / "runs"
    for number, (name, value) in enumerate({"low": 0.6, "high": 0.9, "middle": 0.7, "elsewhere": 0.95}.items(), 1):
        rows = ["other rows"] if name == "elsewhere" else ["rows"]
        result = {"baselines": {"naive_bayes": {"accuracy": 0.5}, "most_frequent_class": {"loss": 0.7}}}
        write_run(folder / name, data={"validation": rows}, result=result)
        recipe = {
            "model": {"from": "/home/ada/base/checkpoints/step-000003"},
            "data": {"train": [{"path": "/home/ada/secret/reviews.csv"}, {"hub": "org/more"}]},
            "objective": {"kind": "classification"},
            "optimizer": {"lr": number / 1000},
        }
        (folder / name / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        best = {"step": 3, "metric": "accuracy", "value": value}
        (folder / name / "checkpoints").mkdir(exist_ok=True)
        (folder / name / "checkpoints" / "best.json").write_text(json.dumps(best), encoding="utf-8")
    assert all(entry.run.listed.best is not None for entry in open_runs([folder]).entries)
    text, found = page(folder)
    shown = re.sub(r"\s+", " ", found.text)
    for words in ("reviews.csv, org/more base classification 0.002 accuracy 0.9 accuracy 0.5 naive bayes", "baseline: naive bayes: 0.5"):
        assert words in shown, shown
    assert "/home/ada" not in text
    assert "/home/ada/secret/reviews.csv" in page(folder, full=True)[0]
    title = "accuracy of the best run, the others and baselines (higher is better)"
    assert [one for one in found.texts if one == title] == [title] * 2
    assert [one for one in found.texts if re.match(r".*: (the best|another) run 0", one)] == [
        "elsewhere: the best run 0.95",
        *("high: the best run 0.9", "middle: another run 0.7", "low: another run 0.6"),
    ]


def test_places_are_left_out_unless_asked(runs: Path) -> None:
    text, _ = page(runs)
    assert not [secret for secret in ("secret-host", "/home/ada", str(runs), "secret/rows", "secret.yaml") if secret in text]
    assert "path: rows.csv" in text
    text, found = page(runs, full=True)
    assert [secret for secret in ("secret-host", "/home/ada/secret.yaml", str(runs)) if secret not in found.text] == []


def test_hostile_names_texts_and_numbers_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "_").replace("\x00", "").replace("\ud800", "")
    place = {
        "seconds": 1e308,
        "energy_kwh": 1e308,
        "emissions_g": 1e308,
        "place": HOSTILE,
        "provenance": {HOSTILE: HOSTILE, "cpu": HOSTILE},
    }
    path = write_run(tmp_path / name, predicted=PLANNED, parents=[{"role": HOSTILE, "path": HOSTILE, "run_id": HOSTILE}], status=HOSTILE)
    document = json.loads((path / "run.json").read_text()) | {"kind": HOSTILE}
    (path / "run.json").write_text(json.dumps(document | {"totals": place}))
    (path / "recipe.yaml").write_text(json.dumps({"data": {"a": HOSTILE.replace("\ud800", "").replace("\x00", "")}}))
    with (path / "metrics.jsonl").open("a") as file:
        for record in (
            {"step": 4, "samples": [{"prompt": HOSTILE, "completion": HOSTILE + "y" * 10_000_000}]},
            {"step": 4, "evaluation": {HOSTILE: 1e300, "loss": -1e308, "x": None}, "nonfinite": {"evaluation.x": "nan"}},
            {"step": 10**400, "loss": 1.0},
            {"step": 5, "loss": 1e308, "lr": -1e308},
        ):
            file.write(json.dumps(record) + "\n")
    text, found = page(path)
    assert "script" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not [one for one in text if one in "\x1b\u202e\x00\ud800"]
    assert len(text) < 1_000_000
    assert sum("<script>" in one for one in found.texts) > 3
    assert "of 10,0" in found.text  # the length of the text that was cut


def test_a_run_in_progress_and_damaged_ones_have_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "begun", status="running", totals=False, losses=[], ledger=False)
    path = write_run(tmp_path / "damaged")
    (path / "run.json").write_text("{")
    _, found = page(tmp_path)
    assert "damaged: run.json: " in found.text
    shutil.rmtree(path)
    _, found = page(tmp_path)
    assert "h2" in found.tags


def test_long_runs_make_short_pages(tmp_path: Path) -> None:
    """Nine runs of fifteen hundred steps, of which eight are drawn; a peak of one step is kept."""
    losses = [1.0 + step % 7 for step in range(1500)]
    losses[1234] = 99.0
    for index in range(9):
        write_run(tmp_path / f"run-{index:02d}", losses=losses, evaluations=dict.fromkeys(range(0, 1500, 10), 1.0))
    text, found = page(tmp_path)
    assert len(text) < 1_000_000
    assert "1 of 9 runs are only in the tables." in found.texts
    points = [(float(step), loss) for step, loss in enumerate(losses)]
    assert (1234.0, 99.0) in thin(points, 100)
    assert len(thin(points, 100)) <= 400


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.2, 2.4), (-3.0, 7e9), (1e-9, 2e-9), (5.0, 5.0), (0.0, 0.0), (-1e29, 1e29)])
def test_ticks_are_round_and_cover_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert found == sorted(found)
    assert found[0] <= low
    assert found[-1] >= high
    assert [time_ticks(0.0, seconds, 4) for seconds in (55.0, 7000.0)] == [
        [0.0, 15.0, 30.0, 45.0, 60.0],
        [0.0, 1800.0, 3600.0, 5400.0, 7200.0],
    ]


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
    assert loader is not None
    assert {"page.html.jinja", "head.html.jinja", "style.css.jinja"} <= set(names)
    for name in names:
        source = loader.get_source(environment(), name)[0]
        assert not re.search(r"\bsafe\b|autoescape|Markup|\w=\{\{", source)  # an attribute without quotes would not be protected
    template = environment().from_string("{{ a }} {{ a * 2 }} {{ b }} {{ [(b, a)] | corners }} {{ 'abcde' | short(4) }}")
    assert template.render(a=1.04, b=1234567) == "1 2.1 1234567 1234567.0,1.0 a..."
    assert visible("a\tb\nc\x7f\u2028d é 🙂") == "a b c\\x7f\\u2028d é 🙂"


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("/home/ada/runs/x/run.json: no such file", "run.json: no such file"),
        ("path: ~/data/rows.csv, from: ../base", "path: rows.csv, from: base"),
        (r"C:\Users\ada\rows.csv", "rows.csv"),
        ("corpus/a/b.txt:3", "b.txt:3"),
        ("hub: org/name-1.5B and 3/4 g/kWh", "hub: org/name-1.5B and 3/4 g/kWh"),
        ("https://example.org/a/b.html", "https://example.org/a/b.html"),
        ("runs/demo/checkpoints/step-000500/", "runs/demo/checkpoints/step-000500/"),
        ("/x/demo/checkpoints/step-000500", "demo"),
    ],
)
def test_paths_become_names(text: str, without: str) -> None:
    assert shareable(text, full=False) == without
    assert shareable(text, full=True) == text


def test_the_file_is_never_written_over_anything_else(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.html"
    for _ in range(2):  # the second page replaces the first
        assert main(["report", str(runs), "--html", str(target)]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"wrote {target}\n" * 2)
    Page(target.read_text(encoding="utf-8"))
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    checkpoint = runs / "base" / "checkpoints" / "step-000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    for path, words in {
        other: "exists, and is not a page",
        runs / "base" / "metrics.jsonl": "exists, and is not a page",
        runs / "base" / "page.html": "where nothing else belongs",
        runs / "base" / "carbon" / "page.html": "where nothing else belongs",
        checkpoint / "page.html": "where nothing else belongs",
        tmp_path: "is a folder",
        tmp_path / "none" / "page.html": "there is no folder",
    }.items():
        before = path.read_bytes() if path.is_file() else None
        assert main(["report", str(runs), "--html", str(path)]) == 2, path
        assert words in capsys.readouterr().err
        assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    "value",
    [10**400, {"a": [10**400]}, *(pytest.param(value, marks=pytest.mark.slow) for value in (-1e308, True, [], "x" * 10_000, None))],
    ids=lambda value: str(value)[:12],
)
def test_no_value_of_a_receipt_raises_anything(tmp_path: Path, value: object) -> None:
    """Every field of run.json and of its totals, forecast, result and attempts in turn; all forms, `runs` and `verify` are tried."""
    result = {"metrics": {"loss": 1.0}, "steps": 3, "checkpoint": "x"}
    plan = {"seconds": {"low": 20, "likely": 40, "high": 80}}
    path = write_run(tmp_path / "run", evaluations={1: 2.0, 3: 1.0}, predicted=plan, result=result, parents=PARENTS, before={"loss": 3.0})
    write_run(tmp_path / "other", evaluations={3: 1.0})
    whole = json.loads((path / "run.json").read_text())
    places: list[tuple[str, ...]] = [(name,) for name in whole]
    places += [(name, inner) for name in ("totals", "predicted", "result", "before") for inner in whole[name]]
    places += [
        ("totals", name) for name in ("intensity", "provenance", "coverage", "place", "energy_kwh_low", "energy_kwh_high", "rework_g")
    ]
    places += [("predicted", "seconds", end) for end in plan["seconds"]] + [
        ("result", "metrics", "loss"),
        ("data", "validation"),
        ("data",),
    ]
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
