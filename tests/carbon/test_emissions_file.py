import os
import subprocess
import sys

import pytest
from tiny_files import emissions_rows
from written_ledgers import row_sums, tick, write

from tfkit.carbon.emissions_file import installed_columns, write_emissions


@pytest.fixture
def run(tmp_path):
    write(tmp_path, [tick("train", 3600, 50.0)])
    return tmp_path


def test_units_and_columns_are_codecarbons_and_writing_again_changes_nothing(run):
    write_emissions(run)
    (row,) = emissions_rows(run)
    assert tuple(row) == installed_columns()
    found = [float(row[name]) for name in ("energy_consumed", "emissions", "cpu_power", "emissions_rate")]
    assert found == pytest.approx([0.05, 0.005, 25, 0.005 / 3600])  # kWh, kg, W
    assert (row["country_iso_code"], row["experiment_id"], row["project_name"]) == ("WLD", "run", "p")
    assert row["on_cloud"] == "N"
    once = (run / "emissions.csv").read_bytes()
    assert once.endswith(b"\n")
    write_emissions(run)
    assert (run / "emissions.csv").read_bytes() == once
    assert sorted(path.name for path in run.iterdir()) == ["carbon", "emissions.csv"]


CARBONBOARD = """
import sys, types
import pandas
for name in ("dash", "dash.dash_table"):  # the drawing, which needs an extra of CodeCarbon's
    sys.modules[name] = types.ModuleType(name)
sys.modules["dash"].dash_table = sys.modules["dash.dash_table"]
sys.modules["dash.dash_table"].DataTable = types.SimpleNamespace
from codecarbon.viz.data import Data
table = Data.get_project_data(pandas.read_csv("emissions.csv"), "p")
total = Data.get_project_summary(table.data)["total"]
print(len(table.data), total["duration"], total["energy_consumed"], total["emissions"])
"""


@pytest.mark.thorough
def test_carbonboards_own_code_adds_the_file_up(run):
    write(run, [tick("evaluate", 60, 3.0)], attempt=2)
    write_emissions(run)
    done = subprocess.run([sys.executable, "-c", CARBONBOARD], cwd=run, check=True, capture_output=True, text=True, timeout=300)
    assert [float(number) for number in done.stdout.split()] == pytest.approx([2, 3660, 0.053, 0.0053])


def test_codecarbon_appends_to_our_file_and_its_row_is_kept(run):
    from codecarbon.output_methods.emissions_data import EmissionsData
    from codecarbon.output_methods.file import FileOutput

    write_emissions(run)
    foreign = dict.fromkeys(installed_columns(), 1.0) | {"run_id": "theirs", "country_name": 'Côte, "of" gold'}
    FileOutput("emissions.csv", str(run)).out(EmissionsData(**foreign), None)
    assert not list(run.glob("*.bak"))
    ledger = write(run, attempt=2)
    for index in (1, 2):
        ledger.append(tick("train", index, index))
        write_emissions(run)
    assert [row["run_id"] == "theirs" for row in emissions_rows(run)] == [True, False, False]
    assert emissions_rows(run)[0]["country_name"] == foreign["country_name"]
    assert row_sums(run)[1] == pytest.approx(1000 + 50 + 2)


@pytest.mark.thorough
def test_codecarbons_own_tracker_extends_the_file(run):
    write_emissions(run)
    code = "import codecarbon as c; t = c.OfflineEmissionsTracker(country_iso_code='FRA', output_dir='.'); t.start(); t.stop()"
    subprocess.run([sys.executable, "-c", code], cwd=run, check=True, capture_output=True, timeout=300)
    assert [row["country_iso_code"] for row in emissions_rows(run)] == ["WLD", "FRA"]
    theirs = emissions_rows(run)[1]
    write(run, [tick("train", 60, 3.0)], attempt=2)
    write_emissions(run)
    assert len(emissions_rows(run)) == 3
    assert theirs in emissions_rows(run)
    assert not list(run.glob("*.bak"))


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"run_id,emissions\nx,1\n", b"\xff\xfe\x00broken", b"a" * 200_000, b'"'],
    ids=["empty", "blank", "foreign", "binary", "long", "quote"],
)
def test_what_cannot_be_merged_is_backed_up_once(run, content):
    (run / "emissions.csv.bak").write_bytes(b"an older backup")
    (run / "emissions.csv").write_bytes(content)
    for _ in range(3):
        write_emissions(run)
    assert row_sums(run)[1] == pytest.approx(50)
    assert (run / "emissions.csv.bak").read_bytes() == b"an older backup"
    assert (run / "emissions.csv_0.bak").read_bytes() == content
    assert len(list(run.glob("*.bak"))) == 2


def test_whole_rows_are_kept_and_a_torn_one_is_backed_up(run):
    columns = installed_columns()
    backwards = [*reversed(columns)]
    (run / "emissions.csv").write_text(",".join(backwards) + "\n" + ",".join(f"<{name}>" for name in backwards) + "\n")
    write_emissions(run)
    assert emissions_rows(run)[0] == {name: f"<{name}>" for name in columns}, "another order of the same columns"
    assert not list(run.glob("*.bak"))
    whole = ",".join(["theirs" if name == "run_id" else "1" for name in columns])
    content = ",".join(columns) + f"\n{whole}\n{whole[:20]}"
    (run / "emissions.csv").write_text(content)
    write_emissions(run)
    assert len(emissions_rows(run)) == 2
    assert (run / "emissions.csv.bak").read_text() == content


def test_a_ledger_that_grows_meanwhile_is_read_again(run, monkeypatch):
    """The ledger's writer may have exited, after replacing emissions.csv just before this process did."""
    other, replace = write(run, attempt=2), os.replace

    def replace_late(source, target):
        if other.path.read_bytes().count(b"\n") == 1:
            other.append(tick("train", 10, 7))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_late)
    write_emissions(run)
    assert row_sums(run)[1] == pytest.approx(50 + 7)


def test_a_failure_leaves_the_file_as_it_was(run, monkeypatch):
    write_emissions(run)
    before = (run / "emissions.csv").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_emissions(run)
    assert (run / "emissions.csv").read_bytes() == before
    assert sorted(path.name for path in run.iterdir()) == ["carbon", "emissions.csv"]
