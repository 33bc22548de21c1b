"""Remote sources that fail, against a hub of our own on this machine; and no network at all."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from local_hub import Hub, ask, serving
from tiny_files import write_rows
from tiny_runs import Done, exact, pretrain, run_tfkit


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """A run, whose checkpoint is the model of the hub, and its recipe."""
    pretrain(base / "run", base / "tiny.yaml", *SHORT).exits(0)
    return base


@pytest.fixture
def hub(base: Path) -> Iterator[Hub]:
    rows = write_rows(base / "rows.jsonl", [{"text": path.read_text(encoding="utf-8")} for path in sorted((base / "corpus").iterdir())])
    with serving(base / "run" / "checkpoints" / "step-000002", rows.read_bytes()) as server:
        yield server


KINDS = {"datasets": 3, "models": 4}
SHORT = ("training.steps=2", "evaluation.every=2")
STREAMED = "data.train=[{hub: org/tiny, streamed: true, rows: 7}]"


@pytest.fixture
def use(kind: str, hub: Hub, base: Path, tmp_path: Path) -> Callable[[], Done]:
    """A command that reads the model, or the data set, of the hub, with caches of the test."""
    if kind == "datasets":
        data, before = "data.train=[{hub: org/tiny}]", ask(hub, tmp_path)
        return lambda: pretrain(tmp_path / f"run-{time.monotonic_ns()}", base / "tiny.yaml", *SHORT, data, before=before)
    words = ["evaluate", "--from", "hub:org/tiny", "--data", base / "corpus", "carbon.enabled=false"]
    return lambda: run_tfkit(tmp_path, words, ask(hub, tmp_path))


def assert_refused(done: Done, kind: str) -> None:
    done.exits(KINDS[kind], "org/tiny")


def assert_clean(use: Callable[[], Done], hub: Hub) -> None:
    """With the same caches and a hub that works again, the command works."""
    hub.fault, hub.content = lambda path, seen: None, lambda content: content
    use().exits(0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
def test_f31_what_the_hub_does_not_have(use: Callable[[], Done], hub: Hub, kind: str) -> None:
    hub.fault = lambda path, seen: 404
    assert_refused(use(), kind)
    assert max(hub.seen.values()) <= 3, "asking again does not help"
    assert_clean(use, hub)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
def test_f31_a_hub_that_is_down_for_a_moment(use: Callable[[], Done], hub: Hub, kind: str) -> None:
    hub.fault = lambda path, seen: 503 if seen[path] <= 1 else None
    use().exits(0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_f31_a_hub_that_is_down(use: Callable[[], Done], hub: Hub, kind: str) -> None:
    hub.fault = lambda path, seen: 503
    assert_refused(use(), kind)
    assert max(hub.seen.values()) >= 3
    assert_clean(use, hub)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_f31_a_hub_that_is_slow(use: Callable[[], Done], hub: Hub, kind: str) -> None:
    hub.fault = lambda path, seen: time.sleep(3)
    began = time.monotonic()
    assert_refused(use(), kind)
    assert time.monotonic() - began < 300
    assert_clean(use, hub)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["half", "wrong"])
def test_f31_files_that_come_by_half_or_with_other_content(use: Callable[[], Done], hub: Hub, kind: str, damage: str) -> None:
    hub.content = lambda content: content[: len(content) // 2] if damage == "half" else content.replace(b"a", b"o")
    assert_refused(use(), kind)
    assert_clean(use, hub)


def test_f31_a_streamed_data_set_comes_once(hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a hub that goes down nothing is kept; what has come is in the cache where the hub has gone, and where it is forbidden to ask."""

    def stream(name: str) -> Done:
        return pretrain(tmp_path / name, base / "tiny.yaml", *SHORT, STREAMED, before=ask(hub, tmp_path))

    hub.fault = lambda path, seen: 404
    assert_refused(stream("refused"), "datasets")
    assert not list((tmp_path / "cache").rglob("records*"))
    hub.fault = lambda path, seen: None
    stream("first").exits(0, "org/tiny, split train, streamed: 7 rows, which are read into the cache first")
    assert not list((tmp_path / "datasets").rglob("*.arrow"))
    asked = sum(hub.seen.values())
    hub.fault = lambda path, seen: 404
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    stream("again").exits(0, "streamed: 7 rows, ")
    assert sum(hub.seen.values()) == asked
    assert exact(tmp_path / "again") == exact(tmp_path / "first")


# ----------------------------------------------------------------------------------------------------------------- no network


NOISY = """
import os, socket
def refuse(*words, **options):
    with open(os.environ["TFKIT_TEST_CALLS"], "a") as file:
        file.write(f"{os.getpid()} {words[1:]}\\n")
    raise OSError("every socket is blocked")
for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket.socket, "sendto"), (socket, "getaddrinfo"),
                    (socket, "gethostbyname")):
    setattr(owner, name, refuse)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which every attempt at a connection or a name is written, also of the processes that a run starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOISY, encoding="utf-8")
    monkeypatch.setenv("TFKIT_TEST_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))  # the meter's process has this one's imports
    return tmp_path / "calls"


def online() -> None:
    """The hub's client believes that it may connect."""
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = False
    exec(NOISY, {})


def test_f30_local_work_opens_no_socket(base: Path, tmp_path: Path, calls: Path) -> None:
    run, words = tmp_path / "run", [*SHORT, "generation.prompts=[the cat]"]
    pretrain(run, base / "tiny.yaml", *words, "carbon={enabled: true, country: DEU}", before=online).exits(0)
    assert list((run / "carbon").glob("*.jsonl"))
    local = f"data.train=[{{hub: {json.dumps(str(base / 'corpus'))}}}]"
    pretrain(tmp_path / "hub", base / "tiny.yaml", *words, local, before=online).exits(0)
    for name, *rest in (["evaluate", "--data", base / "corpus"], ["generate", "--prompt", "the"]):
        run_tfkit(tmp_path, [name, "--from", run, *rest, "carbon.enabled=false"], online).exits(0)
    assert not calls.exists(), calls.read_text(encoding="utf-8")


def test_f30_a_blocked_socket_is_seen(tmp_path: Path, calls: Path) -> None:
    """Else the test above would prove nothing, of the program or of the processes that it starts."""
    run_tfkit(tmp_path, ["generate", "--from", "hub:org/tiny", "--prompt", "a"], online).exits(4)
    assert calls.exists()
    calls.unlink()
    script = "import socket; socket.create_connection(('127.0.0.1', 9))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-P", "-c", script], env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 1
    assert calls.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_f30_offline_a_hub_name_is_refused_without_an_attempt(
    base: Path, tmp_path: Path, calls: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    if kind == "datasets":
        done = pretrain(tmp_path / "run", base / "tiny.yaml", "data.train=[{hub: org/tiny}]", before=online)
    else:
        done = run_tfkit(tmp_path, ["generate", "--from", "hub:org/tiny", "--prompt", "a"], online)
    assert_refused(done, kind)
    assert not calls.exists()
