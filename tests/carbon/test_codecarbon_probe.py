"""The real CodeCarbon in the real sidecar."""

import json
import socket
import subprocess
import sys
import time

import pytest
from tiny_files import emissions_rows, read_rows, wait_for

from tfkit.carbon import Meter
from tfkit.recipe.schema.carbon_section import CarbonSection

COUNTRY = CarbonSection(country="FRA", every_seconds=0.5, pue=1.5)


@pytest.fixture
def hostile(monkeypatch, tmp_path):
    """Set an environment that makes CodeCarbon upload, with a server that would notice it, and with invalid settings files."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name, value in {
        "OUTPUT_METHODS": "api,csv,logger",
        "EMISSIONS_ENDPOINT": endpoint,
        "API_ENDPOINT": endpoint,
        "API_KEY": "x",
        "ELECTRICITYMAPS_API_TOKEN": "x",
        "LOG_LEVEL": "debug",
        "PUE": "9",
        "FORCE_RAM_POWER": "7",
    }.items():
        monkeypatch.setenv(f"CODECARBON_{name}", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".codecarbon.config").write_text("broken")
    (tmp_path / "run").mkdir()
    yield tmp_path / "run"
    with pytest.raises(BlockingIOError):
        server.accept()
    server.close()


def test_a_real_run_in_a_hostile_environment(hostile, capfd):
    import pandas

    meter = Meter.start(COUNTRY, folder=hostile, run_id="run", attempt=1, project="p")
    wait_for(lambda: meter.reading().status != "starting")
    began = time.monotonic()
    meter.phase("train")
    time.sleep(1.5)
    final = meter.stop()
    lasted = time.monotonic() - began
    broken = hostile.parent / ".codecarbon.config"
    assert (meter.warning() or "").startswith(f"{broken} cannot be read, so its settings are ignored (File contains no section headers.)")
    assert final.status == "ok"
    assert final.place.startswith("FRA, 56.04 g/kWh")
    assert final.provenance in (
        "CPU model, RAM user",
        "CPU counter, RAM user",
        "GPU counter, CPU model, RAM user",
        "GPU counter, CPU counter, RAM user",
    )
    assert final.emissions_g == pytest.approx(final.energy_wh * 56.039 / 1000)
    train = emissions_rows(hostile)[-1]
    assert (train["country_iso_code"], train["country_name"], train["pue"]) == ("FRA", "France", "1.5")
    last = read_rows(hostile / "carbon/0-1.jsonl")[-1]
    assert last["ram_wh"] * 3600 / last["measured_seconds"] == pytest.approx(7 * 1.5, rel=0.05)  # both are measured by CodeCarbon
    assert float(train["ram_power"]) == pytest.approx(float(train["ram_energy"]) * 3.6e6 / float(train["duration"]))
    assert 1.5 <= float(train["duration"]) <= lasted
    assert float(train["cpu_count"]) >= 1
    table = pandas.read_csv(hostile / "emissions.csv")
    assert table["energy_consumed"].sum() * 1000 == pytest.approx(final.energy_wh)
    assert table["duration"].sum() == pytest.approx(final.seconds)
    assert table["run_id"].is_unique
    assert sorted(path.name for path in hostile.parent.iterdir()) == [".codecarbon.config", "run"]
    assert capfd.readouterr() == ("", "")


def test_a_setting_that_is_no_number_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CODECARBON_FORCE_CPU_POWER", "65,5")
    meter = Meter.start(COUNTRY, folder=tmp_path, run_id="run", attempt=1, project="p")
    wait_for(lambda: meter.reading().status != "starting")
    meter.stop()
    assert "its setting force_cpu_power is '65,5', which is no number of watts such as 65.5" in (meter.warning() or "")


def test_no_name_is_looked_up_and_no_connection_made():
    code = """
import socket, sys
from tfkit.carbon.probe import refuse_network
refuse_network()
calls = [
    (socket.create_connection, ("127.0.0.1", 9)),
    (socket.gethostbyname, "localhost"),
    (lambda port: socket.getaddrinfo("localhost", port), 80),
]
for do, argument in calls:
    try:
        do(argument)
    except PermissionError:
        continue
    sys.exit("not refused")
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))}, timeout=300)


def test_the_package_is_light():
    code = "import json, sys, tfkit.carbon; print(json.dumps(sorted(sys.modules)))"
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, timeout=300).stdout)
    assert "tfkit.carbon.meter" in loaded
    assert not {"torch", "codecarbon", "pandas", "numpy", "pydantic", "tfkit.carbon.probe"} & set(loaded)
