import builtins
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_runs import on_terminal

from tfkit import console, units
from tfkit.cli.results import align_columns, align_facts
from tfkit.console.characters import ascii_only, escaped, escaped_line, fit

ROOT = Path(__file__).parent.parent
FIELDS = {"step": 120, "steps": 1000, "loss": 2.8123, "lr": 1e-3, "tokens_per_second": 12_345.0}
FIELDS |= {"eta_seconds": 190, "energy_wh": 0.41, "emissions_g": 0.195}


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    console.set_quiet(False)
    yield
    console.set_quiet(False)


@given(st.lists(st.text(min_size=1, max_size=12), max_size=6), st.integers(0, 80), st.none() | st.floats(0, 2), st.booleans())
def test_a_line_always_fits(parts: list[str], width: int, share: float | None, unicode: bool) -> None:
    line = fit(parts, width, share, unicode=unicode)
    assert len(line) <= width
    assert unicode or line.isascii()


@example("0\x1f\x800000", 1)
@given(st.text(), st.integers(-2, 12))
def test_a_cut_text_is_its_longest_beginning_that_fits(text: str, columns: int) -> None:
    beginnings = [text[:end] for end in range(len(text) + 1) if console.columns_of(text[:end]) <= columns]
    assert console.cut(text, columns) == (beginnings[-1] if beginnings else "")


def test_fields_drop_from_the_right_and_a_bar_fills_the_room() -> None:
    parts = ["step 1/4", "loss 2.5", "195 mg"]
    assert fit(parts, 20) == "step 1/4  loss 2.5"
    assert fit(parts, 5) == "step "
    assert fit(parts, 42, 0.25, unicode=False) == "step 1/4  loss 2.5  195 mg  ####----------"[:42]
    assert fit(parts, 30, 0.25) == "step 1/4  loss 2.5  195 mg"


def test_the_result_alone_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.result("one")
    console.json({"a": [1, None]})
    console.say("said")
    console.warn("warned")
    console.error("r.yaml:1:2: wrong")
    with console.progress("a short task", 3) as bar:  # which says nothing
        bar.advance()
    out, err = capsys.readouterr()
    assert out == 'one\n{"a": [1, null]}\n'
    assert err == "said\nwarning: warned\nr.yaml:1:2: wrong\n"


def test_json_is_one_line_for_every_reader(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's splitlines and JavaScript break lines at U+2028, which a prompt in tests/walks contained."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    document = {"prompt": "\u2028é\x85\u2029"}
    console.json(document)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [document]
    assert "é" in lines[0]


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        console.json({"loss": float("nan")})


def test_quiet_leaves_decisions_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_quiet(True)
    console.say("said")
    console.decided("model: {from: x}")
    with console.live() as line:
        line.update(FIELDS)
    with console.progress("reading", 2) as bar:
        bar.advance(2)
    console.warn("w")
    console.error("e")
    assert capsys.readouterr().err == "model: {from: x}\nwarning: w\ne\n"


def test_quiet_is_a_line_a_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console.set_quiet(True)
    with console.live() as line:
        for step in range(1, 16):
            now += 10
            line.update({"step": step, "steps": 15})
    assert capsys.readouterr().err == "step 6/15\nstep 12/15\n"
    with console.progress("reading", 20, "rows") as bar:
        for _ in range(13):
            now += 10
            bar.advance()
    assert [line.split("  ")[1] for line in capsys.readouterr().err.splitlines()] == ["6/20 rows", "12/20 rows"]


def test_off_a_terminal_each_update_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with console.live() as line:
        line.update(FIELDS)
        line.update({"step": 121, "loss": 2.5})
    assert capsys.readouterr().err == "step 120/1000  loss 2.812  lr 1.0e-3  12.3k tok/s  ETA 3:10  410 mWh  195 mg\nstep 121  loss 2.5\n"


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 11.0, 12.0, 13.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with console.progress("reading", 3000, "files") as bar:
        for _ in range(3):
            bar.advance(1000)
    assert capsys.readouterr().err == "reading  2k/3k files  ETA 0:06\nreading  3k/3k files  0:13\n"


def test_ascii_only_is_readable_and_loses_nothing() -> None:
    assert ascii_only("a – b → µg “x” …") == 'a - b -> ug "x" ...'
    assert ascii_only("é 😀") == "\\xe9 \\U0001f600"


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_in_the_locale_c_words_alone_are_ascii(locale: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    console.say("é")
    console.result("é")
    console.json("é")
    out, err = capsys.readouterr()
    assert err == "\\xe9\n"
    assert out == 'é\n"\\u00e9"\n'


def test_a_stream_that_cannot_write_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err := io.BytesIO(), encoding="cp1252"))
    console.result("é 😀 \udcff")
    console.json(["😀"])
    console.warn("→")
    assert raw.getvalue() == b'\xe9 \\U0001f600 \\udcff\n["\\ud83d\\ude00"]\n'
    assert err.getvalue() == b"warning: ->\n"


TERMINAL = """
import sys
import time
from tfkit import console
with console.live() as line:
    for step in (120, 121):
        line.update(dict({fields}, step=step))
        console.warn("careful")
with console.progress("reading", 4, "files") as bar:
    for _ in range(4):
        bar.advance()
console.result("done")
"""


def on_a_terminal(code: str, **environment: str) -> str:
    """Return the output of a program to a terminal of its own."""
    given = os.environ | {"TERM": "xterm", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"} | environment
    program = [sys.executable, "-W", "ignore", "-c", code]
    end, written = on_terminal(lambda terminal: subprocess.Popen(program, env=given, stdin=terminal, stdout=terminal, stderr=terminal))
    assert end == 0, written
    return written


@pytest.mark.parametrize("columns", [20, 60, 120])
def test_on_a_terminal_one_line_is_updated_and_fits(columns: int) -> None:
    shown = on_a_terminal(TERMINAL.format(fields=FIELDS), COLUMNS=str(columns))
    lines = [line for line in shown.replace("\x1b[2K", "\r").replace("\n", "\r").split("\r") if line.startswith("step")]
    assert lines
    assert all(len(line) < columns for line in lines)
    assert shown.count("careful") == 2
    assert "\x1b[33mwarning: careful\x1b[0m" in shown
    assert ("━" in shown) == (columns == 120)
    assert shown.rstrip().endswith("done")


def test_a_run_outlives_the_reader_of_its_log() -> None:
    code = "from tfkit import console\nfor _ in range(3): console.say('x' * 100000)\nconsole.json({'done': True})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    process.stderr.close()
    assert json.loads(process.stdout.read()) == {"done": True}
    process.stdout.close()
    assert process.wait() == 0


CLOSED_TERMINAL = """
import os
import pty
import sys
ours, theirs = pty.openpty()
os.dup2(theirs, 2)
sys.stderr.reconfigure(line_buffering=True)
from tfkit import console
with console.live() as line:
    line.update(dict({fields}, step=1))
    os.close(ours)
    for step in range(2, 5):
        line.update(dict({fields}, step=step))
console.json({{"done": True}})
"""


def test_a_run_outlives_its_terminal() -> None:
    code = CLOSED_TERMINAL.format(fields=FIELDS)
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"done": True})


# -- notebooks


class ZMQInteractiveShell:
    """The class of a notebook's shell, by whose name rich detects Jupyter."""


class Output:
    """A substitute for ipywidgets.Output that stores the texts displayed in it."""

    made: ClassVar[list["Output"]] = []
    entered: ClassVar["Output | None"] = None

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.closed = False
        self.made.append(self)

    def __enter__(self) -> Self:
        Output.entered = self
        return self

    def __exit__(self, *_: object) -> None:
        Output.entered = None

    def clear_output(self, wait: bool) -> None:
        assert wait

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Simulate a notebook, and return the list of texts that are displayed outside widgets."""
    beside: list[str] = []

    def display(shown: Any) -> None:
        if not isinstance(shown, Output):
            text = shown._repr_mimebundle_((), ())["text/plain"].strip()
            (Output.entered.shown if Output.entered else beside).append(text)

    for name, facts in (("IPython", {}), ("IPython.display", {"display": display}), ("ipywidgets", {"Output": Output})):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(facts)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(Output, "made", [])
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return beside


def test_a_notebook_has_a_live_line(displayed: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is in one widget, is replaced at most ten times a second, and is removed at the end; messages stay."""
    clock = iter([0.0, 0.05, 0.11])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with console.live() as line:
        assert line.terminal
        for step in (119, 120, 121):
            line.update({**FIELDS, "step": step})
        console.say("a checkpoint is saved")
    [widget] = Output.made
    assert [text[:13] for text in widget.shown] == ["step 119/1000", "step 121/1000"]
    assert "loss 2.812" in widget.shown[0]
    assert widget.closed
    assert [text for text in displayed if text] == ["a checkpoint is saved"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("lacks", ["ipywidgets", "a notebook: IPython in a pipe"])
def test_without_a_notebook_and_ipywidgets_lines_are_plain(
    lacks: str, displayed: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks == "ipywidgets":
        monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if it were not installed
    else:
        monkeypatch.setattr(builtins, "get_ipython", type("TerminalInteractiveShell", (), {}))
    with console.live() as line:
        line.update({"step": 121, "loss": 2.5})
    assert capsys.readouterr().err == "step 121  loss 2.5\n"
    assert displayed == []


ESC = st.sampled_from("\x1b\x07\x08\r\x00\x7f\x85\x9b\x9d\u202e\u202a\u2066\u2069")
HOSTILE = st.lists(ESC | st.characters(exclude_categories=["Cs"]), max_size=12).map("".join)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # without "\n" and "\t", which tfkit prints


@given(HOSTILE)
def test_nothing_that_is_printed_is_obeyed_by_a_terminal(text: str) -> None:
    """Names, labels and messages from other people's folders are shown with escape sequences by every function that prints."""
    out, err = io.StringIO(), io.StringIO()
    stdin = mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), stdin:
        console.ask(text)
        console.result(text)
        console.result_parts([(text, "bold"), (text, "")])
        console.result(align_columns([[text, "1"], ["b", text]]))
        console.result(align_facts({"name": f"x{text}"}))
        console.json({text: [text]})
        for write in (console.say, console.decided, console.warn, console.error):
            write(text)
        with console.progress(text, 2) as bar:
            bar.due = 0.0
            bar.advance()
    assert not OBEYED.search(out.getvalue() + err.getvalue())
    assert json.loads([line for line in out.getvalue().split("\n") if line.startswith("{") and line.endswith("]}")][-1]) == {text: [text]}


@given(HOSTILE)
def test_escape_sequences_replace_only_what_a_terminal_obeys(text: str) -> None:
    shown = escaped(text)
    assert shown == text or OBEYED.search(text)
    assert [one for one in shown if one in "\n\t"] == [one for one in text if one in "\n\t"]
    assert OBEYED.sub("", text) == re.sub(r"\\x[01789][0-9a-f]|\\u20[26][0-9a-f]", "", shown) or "\\" in text
    assert "\n" not in escaped_line(text)


def test_generated_text_is_data_in_a_file_and_escaped_on_a_terminal() -> None:
    script = "from tfkit import console; console.piece('a\\x1b[2Jb\\u202e\\n')"
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert plain.stdout.decode() == "a\x1b[2Jb\u202e\n"
    assert on_a_terminal(script) == "a\\x1b[2Jb\\u202e\r\n"


def test_the_live_line_shows_no_control_characters_of_a_name() -> None:
    script = "from tfkit import console\nwith console.progress('a\\x1b]0;title\\x07\\x9b2J', 2) as bar:\n    bar.due = 0\n    bar.advance()"
    shown = on_a_terminal(script, COLUMNS="99")
    assert r"a\x1b]0;title\x07\x9b2J" in shown
    assert not {"\x1b]", "\x07", "\x9b"} & {*shown, "\x1b]" * ("\x1b]" in shown)}


# -- units


NAN = float("nan")
SHOWN: dict[Callable[[float], str], dict[float, str]] = {
    units.format_count: {0: "0", 999: "999", 999.6: "1k", 12_345: "12.3k", 1e6: "1M", 124_439_808: "124M", NAN: "?"},
    units.format_seconds: {0: "0:00", 7.4: "0:07", 59.7: "1:00", 190: "3:10", 7384: "2:03:04", 439_200: "5d 02h", -1: "?", NAN: "?"},
    units.format_mass: {0: "0 g", 1.2e-5: "12 ug", 0.195: "195 mg", 0.99999: "1 g", 1.25: "1.2 g", 3400: "3.4 kg", 5.6e6: "5.6 t"}
    | {3e-7: "0.3 ug", 1e-9: "0 ug"},
    units.format_energy: {0: "0 Wh", 0.012: "12 mWh", 0.41: "410 mWh", 1.5: "1.5 Wh", 3400: "3.4 kWh", 3.1e6: "3.1 MWh"}
    | {4.12e-4: "0.4 mWh"},
    units.format_bytes: {0: "0 B", 999: "999 B", 12_345: "12.3 kB", 3.4e9: "3.4 GB", 5.6e12: "5.6 TB"},
}


@pytest.mark.parametrize(("format_", "texts"), SHOWN.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_quantities_are_short_texts(format_: Callable[[float], str], texts: dict[float, str]) -> None:
    assert {value: format_(value) for value in texts} == texts


@given(st.floats(1e-9, 1e15))
def test_units_never_mislead(value: float) -> None:
    """The number that is read back from the text is the value, to the digits shown."""
    for format_, sizes in (
        (units.format_mass, {"ug": 1e-6, "mg": 1e-3, "g": 1, "kg": 1e3, "t": 1e6}),
        (units.format_energy, {"mWh": 1e-3, "Wh": 1, "kWh": 1e3, "MWh": 1e6}),
    ):
        number, unit = format_(value).split()
        assert abs(float(number) * sizes[unit] - value) <= max(0.051 * sizes[unit], 0.0051 * value)


def test_one_thing_or_epoch_is_not_several() -> None:
    assert [units.format_number_of(count, "row") for count in (0, 1, 2, 12_000)] == ["0 rows", "1 row", "2 rows", "12,000 rows"]

    assert [units.format_epochs(count) for count in (1, 0.9999, 0.25, 3.004)] == ["1 epoch", "1 epoch", "0.25 epochs", "3 epochs"]


def test_fields_of_a_step() -> None:
    fields = {"step": 3, "lr": 1e-12, "energy_kwh": 1.0, "loss": None, "note": "x"}
    assert units.format_fields(fields) == ["step 3", "lr 1.0e-12", "1 kWh", "note x"]


def test_baselines_are_shown_by_one_metric() -> None:
    found = {"most_frequent_tag": {"accuracy": 0.5, "f1": 0.0}, "most_frequent_tag_of_word": {"accuracy": 0.75, "f1": 0.123456}}
    assert units.format_baselines(found) == "f1 0 most frequent tag, 0.1235 most frequent tag of word"
    assert units.format_baselines({"mean": {"rmse": 1.5}}) == "rmse 1.5 mean"
    assert units.format_baselines({}) == ""
