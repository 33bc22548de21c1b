"""tfkit push: what is sent of a model folder, to a hub of our own on this machine, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import Hub, ask, serving
from tiny_runs import Done, run_tfkit, write_corpus, write_recipe

from tfkit.__main__ import main
from tfkit.network import _PAUSES

# of httpx, by the way in which the hub's client uploads a file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SENT = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
SENT |= {"tfkit.json", "manifest.json", "README.md", "emissions.csv"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that a further one was started from: `tuned`, whose lineage has a path of this machine."""
    folder = tmp_path_factory.mktemp("pushed")
    recipe = write_recipe(folder, write_corpus(folder / "corpus"))
    tuning = ["finetune", "--from", str(folder / "run"), "--data", str(folder / "corpus"), "--run", str(folder / "tuned")]
    for words in (["pretrain", str(recipe), "--run", str(folder / "run"), "evaluation.every=2"], tuning):
        done = run_tfkit(folder, [*words, "training.steps=2", "carbon.enabled=true"])
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(None) as server:
        yield server


def push(hub: Hub, base: Path, folder: Path, *words: str) -> Done:
    return run_tfkit(base, ["push", str(base / "tuned"), "org/tiny", *words], ask(hub, folder))


def test_what_is_pushed_opens_and_the_state_of_training_and_paths_stay_here(hub: Hub, base: Path, tmp_path: Path) -> None:
    done = push(hub, base, tmp_path, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert {one["name"]: one["bytes"] for one in document["files"]} == {name: len(held) for name, held in hub.files["models"].items()}
    assert hub.files["models"].keys() == SENT
    assert (document["url"], document["commit"], document["changed"], hub.private) == (f"{hub.url}/org/tiny", hub.sha, True, True)
    assert (base / "tuned" / "emissions.csv").read_bytes() == hub.files["models"]["emissions.csv"]
    facts = hub.files["models"]["tfkit.json"].decode()
    assert str(base) not in facts
    assert json.loads(facts)["lineage"]["parents"][0]["path"] == "run"
    scored = run_tfkit(
        base, ["evaluate", "--from", "hub:org/tiny", "--data", str(base / "corpus"), "--json", "carbon.enabled=false"], ask(hub, tmp_path)
    )
    assert scored.code == 0, scored.err
    here = run_tfkit(base, ["evaluate", "--from", str(base / "tuned"), "--data", str(base / "corpus"), "--json", "carbon.enabled=false"])
    assert json.loads(scored.out)["metrics"] == json.loads(here.out)["metrics"]


def test_a_second_push_sends_nothing_twice_and_removes_old_weights(hub: Hub, base: Path, tmp_path: Path) -> None:
    assert push(hub, base, tmp_path).out == f"{hub.url}/org/tiny\n"
    large, first = [path for path in hub.seen if path.startswith("/large/")], hub.sha
    again = push(hub, base, tmp_path)
    assert (again.code, hub.sha) == (0, first)
    assert "already had the same files" in again.err
    hub.files["models"] |= {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.txt": b"mine"}
    assert push(hub, base, tmp_path).code == 0
    assert hub.files["models"].keys() == SENT | {"notes.txt"}
    assert [path for path in hub.seen if path.startswith("/large/")] == large
    assert max(hub.seen[path] for path in large) == 1


def test_a_dry_run_asks_no_hub(hub: Hub, base: Path, tmp_path: Path) -> None:
    done = push(hub, base, tmp_path, "--dry-run")
    assert done.code == 0
    assert {line.split()[-1] for line in done.out.splitlines()[:-1]} == SENT
    assert "for org/tiny, private; nothing was sent" in done.out
    assert not hub.seen


@pytest.mark.parametrize(("private", "words"), [(False, ()), (True, ("--public",))])
def test_a_repository_of_the_other_visibility_is_refused(hub: Hub, base: Path, tmp_path: Path, private: bool, words: tuple[str]) -> None:
    hub.private = private
    done = push(hub, base, tmp_path, *words)
    assert done.code == 2
    assert "org/tiny: exists and is" in done.err
    assert not hub.commits


@pytest.mark.parametrize(("status", "text"), [(401, "set HF_TOKEN"), (403, "set HF_TOKEN"), (500, "push again")])
def test_what_the_hub_refuses_ends_with_5_and_a_remedy(
    hub: Hub, base: Path, tmp_path: Path, status: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfkit.network._PAUSES", (0.0,) * len(_PAUSES))
    hub.private = True
    hub.fault = lambda path, seen: status if path.endswith("/commit/main") else None
    done = push(hub, base, tmp_path)
    assert done.code == 5
    assert text in done.err
    assert "Traceback" not in done.err
    hub.fault = lambda path, seen: 500 if path.endswith("/commit/main") and seen[path] % 2 else None
    hub.seen.clear()
    assert push(hub, base, tmp_path).code == 0, "a server that fails once"


def test_what_cannot_be_pushed_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(base / "tuned")
    for words, code in (
        ([run, "tiny"], 2),
        ([run, "org/ti ny"], 2),
        (["hub:org/tiny", "org/tiny"], 2),
        ([str(tmp_path / "none"), "org/tiny"], 4),
        ([str(base / "corpus"), "org/tiny"], 4),
    ):
        assert main(["push", *words]) == code, words
    shutil.copytree(base / "tuned" / "checkpoints" / "step-000002", tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert main(["push", str(tmp_path / "model"), "org/tiny"]) == 4
    assert "damaged" in capsys.readouterr().err
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    assert main(["push", run, "org/tiny"]) == 5
