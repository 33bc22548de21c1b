"""The run folder: one owner, places that cannot be written, links, attempts, and a run.json that is correct after a kill."""

import errno
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import receipt
from tiny_runs import After, raising

from tfkit.cli.results import training_text
from tfkit.engine.request.resuming import is_training_result
from tfkit.engine.request.training_request import RequestRecord
from tfkit.errors import MachineError, ModelError, Stopped, UsageError
from tfkit.run import machine, run_json
from tfkit.run.checkpoints import save_checkpoint
from tfkit.run.folder import RunFolder
from tfkit.run.lock import FolderLock
from tfkit.run.replay_file import read_replay, write_replay

COMMAND = ["tfkit", "pretrain", "demo"]


def open_run(path: Path, resume: bool = False, **options: Any) -> RunFolder:
    return RunFolder.open(path, resume=resume, command=COMMAND, **options)


def test_the_same_process_cannot_open_it_twice_and_closing_frees_it(tmp_path: Path) -> None:
    """tests/faults/test_saving.py has two processes, and one that takes over from another that was killed."""
    with open_run(tmp_path):
        for resume in (False, True):
            with pytest.raises(MachineError, match=f"{tmp_path}.* process {os.getpid()} on {socket.gethostname()}.*`run`"):
                open_run(tmp_path, resume)
    open_run(tmp_path).close()
    assert (tmp_path / "lock").read_text() == ""


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"pid": 1, "host": "x", "started_utc": "y"}', "\udcff"])
def test_what_a_dead_owner_left_in_the_lock_does_not_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text, errors="surrogateescape")
    with open_run(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_held_as_long_as_the_folder_is_the_same(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lock = FolderLock(run / "lock")
    lock.acquire()
    (run / "lock").unlink()
    assert lock.is_held  # only the lock file was deleted
    run.rename(tmp_path / "moved")
    assert not lock.is_held
    run.mkdir()
    assert not lock.is_held
    (run / "lock").write_text("{}", encoding="utf-8")  # the content of another owner
    assert not lock.is_held
    lock.release()


def test_without_kernel_locks_the_owner_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an NFS mount without a lock daemon, flock raises ENOLCK."""
    monkeypatch.setattr("fcntl.flock", raising(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, lock = socket.gethostname(), tmp_path / "lock"
    owner = {"host": here, "started_utc": "2026-01-01T00:00:00+00:00"}
    for pid in (dead.pid, os.getpid(), 10**30):
        lock.write_text(json.dumps(owner | {"pid": pid}))
        open_run(tmp_path).close()
    for pid, host in ((os.getppid(), here), (dead.pid, "elsewhere")):
        lock.write_text(json.dumps(owner | {"pid": pid, "host": host}))
        with pytest.raises(MachineError, match=f"process {pid} on {host}.* delete .*lock"):
            open_run(tmp_path)
    lock.unlink()  # the remedy of the message
    open_run(tmp_path).close()


def test_a_checkpoint_is_refused_without_resume(tmp_path: Path) -> None:
    with open_run(tmp_path, resume=True) as run:  # on an empty folder it starts
        save_checkpoint(run.checkpoints, 5, lambda folder: (folder / "config.json").touch())
    with pytest.raises(UsageError, match=r"`resume=True`, or give another folder with `run`"):
        open_run(tmp_path)
    with open_run(tmp_path, resume=True) as again:
        assert again.run_id == run.run_id


def test_leftovers_of_a_killed_save_are_no_checkpoint_and_go(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    (tmp_path / "checkpoints" / ".step-000005.tmp-1-ab").mkdir(parents=True)
    (tmp_path / ".run.json.tmp-1-ab").touch()
    with open_run(tmp_path) as run:
        assert list(run.checkpoints.iterdir()) == []
        assert sorted(os.listdir(tmp_path)) == ["checkpoints", "lock", "run.json"]


@pytest.mark.parametrize("name", ["a b", "-x", "é", "a\n"])
def test_a_name_that_is_no_slug_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="run name"):
        open_run(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_files_are_not_overwritten_and_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "recipe.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"holds a recipe\.yaml that was not written by tfkit"):
        open_run(tmp_path / "run")
    assert os.listdir(tmp_path / "disk") == ["recipe.yaml"]
    (tmp_path / "disk" / "recipe.yaml").unlink()
    with open_run(tmp_path / "run") as run:
        assert run.path == tmp_path / "disk"


def attempt_that_raises(path: Path, resumed_from: Path | None, error: Exception) -> None:
    with open_run(path, resume=True) as run:
        number = run.attempt
        run.begin_attempt()
        assert run.attempt == number
        if resumed_from is not None:
            run.record_resume(resumed_from, 5)
        assert receipt(path)["status"] == "running"
        raise error


def test_the_receipt_of_a_run_in_three_attempts(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert (run.attempt, run.recorded.result) == (1, None)
        assert receipt(tmp_path)["status"] == "new"
    with pytest.raises(Stopped):
        attempt_that_raises(tmp_path, None, Stopped("stopped by SIGTERM", 15))
    with pytest.raises(KeyError):
        attempt_that_raises(tmp_path, tmp_path / "checkpoints" / "step-000005", KeyError("bug"))
    with open_run(tmp_path, resume=True) as run:
        run.begin_attempt(threads=2)
        assert receipt(tmp_path)["threads"] == 2
        run.record_resume(run.checkpoints / "step-000005", 5)
        run.record(threads=3, totals={"tokens": 7}, result={"loss": float("nan")})
        run.end_attempt("finished", step=9)
        assert run.recorded.result is not None
        assert run.attempt == 4, "the next"
    document = receipt(tmp_path)
    first, second, third = document["attempts"]
    assert (first["number"], first["status"], first["resumed_from"], first["error"]) == (1, "stopped", None, "Stopped: stopped by SIGTERM")
    found = [second[name] for name in ("status", "resumed_from", "from_step", "error")]
    assert found == ["failed", "step-000005", 5, "KeyError: 'bug'"]
    assert (third["status"], third["to_step"], third["error"]) == ("finished", 9, None)
    assert 0 <= third["seconds"] < 600
    assert third["started_utc"] <= third["ended_utc"]
    assert third["started_utc"].endswith("+00:00")
    assert (document["status"], document["command"], document["name"], document["threads"]) == ("finished", COMMAND, tmp_path.name, 3)
    assert (document["result"], document["nonfinite"]) == ({"loss": None}, {"result.loss": "nan"})
    assert document["versions"]["python"] == platform.python_version()
    assert document["processor"]["cores"] == os.cpu_count()
    with open_run(tmp_path, resume=True) as run:
        assert run.recorded.result == {"loss": None}
    assert receipt(tmp_path)["status"] == "finished", "opening begins no attempt"
    (tmp_path / "checkpoints" / "step-000009").mkdir(parents=True)
    for resumed_from, kept in ((None, True), (tmp_path / "checkpoints" / "step-000009", False)):
        with pytest.raises(Stopped):
            attempt_that_raises(tmp_path, resumed_from, Stopped("stopped by SIGTERM", 15))
        assert ("result" in receipt(tmp_path)) is kept, "lost once an attempt goes on from there"
        with open_run(tmp_path, resume=True) as run:
            assert (run.recorded.result is not None) is kept
    assert receipt(tmp_path)["totals"] == {"tokens": 7}


def test_the_time_of_a_killed_attempt_is_known_up_to_the_latest_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_json, "SECONDS_BETWEEN_WRITES", 600)
    run = open_run(tmp_path)
    run.begin_attempt()
    begun = receipt(tmp_path)
    time.sleep(0.12)
    run.update_time()  # too early
    assert receipt(tmp_path) == begun
    monkeypatch.setattr(run_json, "SECONDS_BETWEEN_WRITES", 0.1)
    run.update_time()
    run.close()  # the kernel also releases the lock of a killed process
    with open_run(tmp_path, resume=True) as run:
        (killed,) = receipt(tmp_path)["attempts"]
        assert (receipt(tmp_path)["status"], run.attempt) == ("killed", 2)
        assert (killed["status"], killed["pid"], killed["ended_utc"]) == ("killed", os.getpid(), None)
        assert 0.12 <= killed["seconds"] < 600
        run.begin_attempt()
        time.sleep(0.05)
        assert killed["seconds"] + 0.05 <= run.recorded.seconds({}) < 600
        assert 7.05 <= run.recorded.seconds({1: 7.0}) < 607, "the ledger knows better"
        assert run.recorded.seconds({1: 7.0, 2: 3.0, 9: 100.0}) == 10.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["steps", "name", "status", "x"]), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_receipt_with_a_value_of_another_kind_is_never_a_bug(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("receipt")
    result = {"checkpoint": "c", "steps": 3, "tokens": 9, "loss": 0.5, "evaluation": {"loss": 1.0}, "seconds": 2.0, "energy_kwh": 0.1}
    result |= {"emissions_g": 1.0, "best": {"step": 3, "metric": "loss", "value": 1.0}, "place": "FRA", "train_seconds": 1.0}
    attempt = {"number": 1, "status": "running", "seconds": None, "from_step": 0}
    document: dict[str, Any] = {"schema_version": 1, "run_id": "r", "name": "n", "command": [], "status": "running", "attempts": [attempt]}
    document |= {"result": result, "totals": {"seconds": 2.0}, "given": {"recipe": "x", "text": "a: 1", "overrides": ["a=2"]}}
    document |= {"versions": {"torch": "2"}, "processor": {"name": "p"}, "threads": 1}
    here: Any = document
    while True:
        keys = sorted(here.keys() - {"schema_version"}) if isinstance(here, dict) else range(len(here))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(here[key], dict | list) or not here[key] or data.draw(st.booleans()):
            break
        here = here[key]
    here[key] = data.draw(JSON)
    (folder / "run.json").write_text(json.dumps(document))
    with open_run(folder, resume=True) as run:
        assert isinstance(run.arithmetic, dict)
        assert isinstance(run.recorded.seconds({}), int | float)
        RequestRecord.from_document(run.recorded.given)
        run.record_totals({"tokens": 1})
        if is_training_result(run.recorded.result):
            training_text(run.recorded.result)
        run.begin_attempt()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run_id": 1, "status": "x", "attempts": [], "schema_version": 1}'])
def test_a_damaged_receipt_is_set_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "recipe.yaml").touch()
    said: list[str] = []
    with open_run(tmp_path, resume=True, warn=said.append) as run:
        assert run.attempt == 1
    assert len(said) == 1
    assert (tmp_path / "run.json.damaged").read_text() == text


def test_an_attempt_and_what_is_known_at_its_begin_and_end_are_written_at_once(tmp_path: Path) -> None:
    written: list[dict[str, Any]] = []
    noting = After(run_json, "write_atomically", lambda result, path, text: written.append(json.loads(text)))
    with noting, open_run(tmp_path) as run:
        run.begin_attempt(threads=2, kind="pre-training")
        run.record_resume(run.checkpoints / "step-000005", 5)
        run.end_attempt("finished", step=9, result={"loss": 1.5})
        run.end_attempt("failed", result={"loss": 2.5})
    _, begun, gone_on, ended = written
    assert [one["status"] for one in written] == ["new", "running", "running", "finished"]
    assert (begun["kind"], begun["threads"]) == ("pre-training", 2)
    assert begun["versions"]["python"] == platform.python_version()
    assert gone_on["attempts"][0]["resumed_from"] == "step-000005"
    assert (ended["result"], ended["attempts"][0]["to_step"]) == ({"loss": 1.5}, 9)


def test_a_full_disk_during_the_run_only_warns_and_at_the_start_stops(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    said: list[str] = []
    try:
        with open_run(tmp_path, warn=said.append) as run:
            run.begin_attempt()
            before = (tmp_path / "run.json").read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1, hard))
            run.record(totals={"tokens": 1})
            run.end_attempt("stopped")
        assert (tmp_path / "run.json").read_bytes() == before
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        with pytest.raises(MachineError, match="cannot be a run folder"):
            open_run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (len(said), "File too large" in said[0]) == (1, True), said
    assert sorted(os.listdir(tmp_path)) == ["lock", "run.json"]


def test_the_commit_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert machine.checked_out_commit() is None
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert machine.checked_out_commit() is None
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir("below")
    assert machine.checked_out_commit() == head


def test_the_latest_replay_file_is_that_of_the_last_step_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        write_replay(tmp_path, {"step": step, "weights_sha256": "", "micro_batches": []})
    assert read_replay(tmp_path)["step"] == 1_000_000
    (newest,) = (tmp_path / "replay").glob("*1000000*")
    for text in ("", "[]", '{"schema_version": 2}', '{"schema_version": 1, "step": 1e999}'):
        newest.write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match="not a replay file"):
            read_replay(tmp_path)


@pytest.mark.parametrize(("setting", "threads"), [("3", 3), ("4,2", 4), ("0", None), ("many", None)])
def test_the_threads_of_the_environment(monkeypatch: pytest.MonkeyPatch, setting: str, threads: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert machine.threads() == (machine.usable_cores() if threads is None else threads)


@pytest.mark.parametrize(
    ("text", "name", "bf16"),
    [
        ("processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx512_bf16 amx_bf16\n\nprocessor\t: 1\n", "Xeon", "amx_bf16"),
        ("model name\t: EPYC\nflags\t\t: fpu avx512_bf16\n\nmodel name\t: other\nflags\t: fpu\n", "EPYC", "avx512_bf16"),
        ("model name\t: Core\nflags\t\t: fpu avx512f avx2\n", "Core", ""),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", None, "bf16"),
        ("processor\t: 0\nhart\t: 0\n", None, None),
        ("", None, None),
    ],
)
def test_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, name: str | None, bf16: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    found = machine.processor()
    assert found["bf16"] == bf16
    assert found["name"] == name if name else found["name"]


@pytest.mark.parametrize(("answer", "bf16"), [("1", "bf16"), ("0", ""), (None, None)])
def test_the_processor_of_a_mac(monkeypatch: pytest.MonkeyPatch, answer: str | None, bf16: str | None) -> None:
    answers = {"machdep.cpu.brand_string": "Apple M2", "hw.optional.arm.FEAT_BF16": answer}
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(machine, "_output", lambda command: answers[command[-1]])
    found = machine.processor()
    assert (found["name"], found["bf16"]) == ("Apple M2", bf16)
