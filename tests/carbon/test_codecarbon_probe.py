"""The real CodeCarbon in the real sidecar."""

import json
import re
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
    settings = {"OUTPUT_METHODS": "api,csv,logger", "LOG_LEVEL": "debug", "PUE": "9", "FORCE_RAM_POWER": "7"}
    settings |= {"EMISSIONS_ENDPOINT": endpoint, "API_ENDPOINT": endpoint, "API_KEY": "x", "ELECTRICITYMAPS_API_TOKEN": "x"}
    for name, value in settings.items():
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
    assert re.fullmatch("(GPU counter, )?CPU (model|counter), RAM user", final.provenance)
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


@pytest.mark.parametrize("watts", ["65,5", "nan"])
def test_a_setting_that_is_no_number_is_named(monkeypatch, tmp_path, watts):
    monkeypatch.setenv("CODECARBON_FORCE_CPU_POWER", watts)
    meter = Meter.start(COUNTRY, folder=tmp_path, run_id="run", attempt=1, project="p")
    wait_for(lambda: meter.reading().status != "starting")
    meter.stop()
    assert f"its setting force_cpu_power is {watts!r}, which is no number of watts such as 65.5" in (meter.warning() or "")


def run_alone(code):
    """Run a new interpreter with nothing but its path in its environment, and return its output."""
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.PIPE, timeout=300).stdout


def test_no_name_is_looked_up_and_no_connection_made():
    run_alone("""
import socket, sys
from tfkit.carbon.probe import refuse_network
refuse_network()
for call in (
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: socket.gethostbyname("localhost"),
    lambda: socket.getaddrinfo("localhost", 80),
):
    try:
        call()
    except PermissionError:
        continue
    sys.exit("not refused")
""")


def test_the_package_is_light():
    loaded = set(json.loads(run_alone("import json, sys, tfkit.carbon; print(json.dumps(sorted(sys.modules)))")))
    assert "tfkit.carbon.meter" in loaded
    assert not {"torch", "codecarbon", "pandas", "numpy", "pydantic", "tfkit.carbon.probe"} & loaded
