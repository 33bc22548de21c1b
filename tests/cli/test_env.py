import json
from importlib import metadata

import pytest

from tfkit import __version__
from tfkit.__main__ import main
from tfkit.cli.env import LIBRARIES, lines, read_cpuinfo, version


def test_env_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tfkit"] == __version__
    assert document["versions"]["torch"] == metadata.version("torch")
    assert set(document["versions"]) == set(LIBRARIES)
    assert document["devices"][0] == "cpu"
    assert document["processor"]["name"]
    assert document["processor"]["bf16"] in (True, False, None)
    assert document["threads"] >= 1
    assert document["cache"]["bytes"] >= 0


def test_env_for_people_is_one_thing_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == ["tfkit", "python", *LIBRARIES, "processor", "threads", "devices", "cache"]


@pytest.mark.parametrize(
    ("text", "name", "bf16"),
    [
        ("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu amx_bf16 sse\n", "Xeon", True),
        ("model name\t: EPYC\nflags\t\t: fpu avx512_bf16\n\nmodel name\t: other\nflags\t: fpu\n", "EPYC", True),
        ("model name\t: Core\nflags\t\t: fpu avx512f avx2\n", "Core", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", None, True),
        ("processor\t: 0\nhart\t: 0\n", None, None),
    ],
)
def test_cpuinfo(text: str, name: str | None, bf16: bool | None) -> None:
    found = read_cpuinfo(text)
    assert found["bf16"] is bf16
    assert found["name"]
    assert name is None or found["name"] == name


def test_what_is_missing_is_said() -> None:
    assert version("no-such-distribution-of-ours") is None
    document = {
        "tfkit": "1",
        "python": "3",
        "platform": "p",
        "versions": {"torch": None},
        "processor": {"name": "x", "bf16": None},
        "threads": 2,
        "devices": [],
        "cache": {"folder": None, "bytes": None, "error": "cannot be written"},
    }
    shown = "\n".join(lines(document))
    for words in ("not installed", "bf16 unknown", "none: torch", "cannot be written"):
        assert words in shown
    assert main(["env", "--foo"]) == 2
