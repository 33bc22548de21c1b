"""tfkit push: what is sent of a model folder, to a hub of our own on this machine, and what is refused."""

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_codecarbon import put_first, write
from local_hub import Hub, ask, serving
from tiny_files import flip, read_json
from tiny_runs import Done, run_here, run_tfkit

from tfkit import load
from tfkit.engine.listener import Silent
from tfkit.engine.tools.gguf_export import export_gguf
from tfkit.engine.tools.publishing import prepare
from tfkit.network import _PAUSES

# of httpx, by the way in which the hub's client uploads a file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SENT = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
SENT |= {"tfkit.json", "manifest.json", "README.md", "emissions.csv"}


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """A run that a further one was started from: `tuned`, which was metered, and whose lineage has a path of this machine."""
    write(base / "fake")
    training = ["pretrain", base / "tiny.yaml", "--run", base / "run", "evaluation.every=2"]
    tuning = ["finetune", "--from", base / "run", "--data", base / "corpus", "--run", base / "tuned", "carbon.enabled=true"]
    for words in (training, [*tuning, "training.precision=fp32"]):
        run_tfkit(base, [*map(str, words), "training.steps=2"], put_first(base / "fake")).exits(0)
    return base


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(None) as server:
        yield server


def push(hub: Hub, base: Path, folder: Path, *words: str) -> Done:
    return run_tfkit(base, ["push", str(base / "tuned"), "org/tiny", *words], ask(hub, folder))


def test_what_is_pushed_opens_and_the_state_of_training_and_paths_stay_here(hub: Hub, base: Path, tmp_path: Path) -> None:
    document = push(hub, base, tmp_path, "--json").exits(0).document
    assert {one["name"]: one["bytes"] for one in document["files"]} == {name: len(held) for name, held in hub.files["models"].items()}
    assert hub.files["models"].keys() == SENT
    assert (document["url"], document["commit"], document["changed"], hub.private) == (f"{hub.url}/org/tiny", hub.sha, True, True)
    assert (base / "tuned" / "emissions.csv").read_bytes() == hub.files["models"]["emissions.csv"]
    facts = hub.files["models"]["tfkit.json"].decode()
    assert (str(base) in facts, json.loads(facts)["lineage"]["parents"][0]["path"]) == (False, "run")
    judge = ["evaluate", "--data", str(base / "corpus"), "--json", "carbon.enabled=false", "--from"]
    fetched = run_tfkit(base, [*judge, "hub:org/tiny"], ask(hub, tmp_path)).exits(0).document
    assert fetched["metrics"] == run_here([*judge, base / "tuned"]).document["metrics"]


def test_a_second_push_sends_nothing_twice_and_removes_old_weights(hub: Hub, base: Path, tmp_path: Path) -> None:
    assert push(hub, base, tmp_path).out == f"{hub.url}/org/tiny\n"
    large, first = [path for path in hub.seen if path.startswith("/large/")], hub.sha
    push(hub, base, tmp_path).exits(0, "already had the same files")
    assert hub.sha == first
    hub.files["models"] |= {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.txt": b"mine"}
    push(hub, base, tmp_path).exits(0)
    assert hub.files["models"].keys() == SENT | {"notes.txt"}
    assert [path for path in hub.seen if path.startswith("/large/")] == large
    assert max(hub.seen[path] for path in large) == 1


def test_a_dry_run_asks_no_hub(hub: Hub, base: Path, tmp_path: Path) -> None:
    done = push(hub, base, tmp_path, "--dry-run").exits(0)
    assert {line.split()[-1] for line in done.out.splitlines()[:-1]} == SENT
    assert "for org/tiny, private; nothing was sent" in done.out
    assert not hub.seen


@pytest.mark.parametrize(("private", "words"), [(False, ()), (True, ("--public",))])
def test_a_repository_of_the_other_visibility_is_refused(hub: Hub, base: Path, tmp_path: Path, private: bool, words: tuple[str]) -> None:
    hub.private = private
    push(hub, base, tmp_path, *words).exits(2, "org/tiny: exists and is")
    assert not hub.commits


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("status", "text"), [(401, "set HF_TOKEN"), (403, "set HF_TOKEN"), (500, "push again")])
def test_what_the_hub_refuses_ends_with_5_and_a_remedy(
    hub: Hub, base: Path, tmp_path: Path, status: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfkit.network._PAUSES", (0.0,) * len(_PAUSES))
    hub.private = True
    hub.fault = lambda path, seen: status if path.endswith("/commit/main") else None
    push(hub, base, tmp_path).exits(5, text)
    hub.fault = lambda path, seen: 500 if path.endswith("/commit/main") and seen[path] % 2 else None
    hub.seen.clear()
    assert push(hub, base, tmp_path).code == 0, "a server that fails once"


def test_what_cannot_be_pushed_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = base / "tuned"
    model = shutil.copytree(run / "checkpoints" / "step-000002", tmp_path / "model")
    flip(model / "model.safetensors")
    for words, code, said in (
        ([run, "tiny"], 2, ""),
        ([run, "org/ti ny"], 2, ""),
        (["hub:org/tiny", "org/tiny"], 2, ""),
        ([tmp_path / "none", "org/tiny"], 4, "none: there is no such folder; give a checkpoint, a run folder, or"),
        ([base / "corpus", "org/tiny"], 4, ""),
        ([model, "org/tiny"], 4, "damaged"),
    ):
        run_here(["push", *words]).exits(code, said)
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    run_here(["push", run, "org/tiny"]).exits(5)


# -- nothing of this machine

USER = "ada-of-this-machine"
LORA = "training.adapter={kind: lora, rank: 2}"
DISTILLED = "objective={kind: distillation, teacher: run, of: {kind: causal_lm}}"
ABSOLUTE = re.compile(rb"""(?:^|[\s"'=(,:`])((?:/|[A-Z]:\\|~/)[\w.-]+[/\\][\w./\\-]+)""", re.MULTILINE)


@pytest.fixture(scope="module")
def kinds(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of several kinds and other model folders, all named by absolute paths, in the folder of `base`."""
    hub_cache = tmp_path_factory.mktemp("cache")
    recipe, run, more = str(base / "tiny.yaml"), str(base / "run"), ["training.steps=2", "checkpoint.every=1", "carbon.enabled=false"]
    tune = ["finetune", "--data", str(base / "corpus"), "training.precision=fp32", *more]
    commands = {
        "distilled": ["pretrain", recipe, DISTILLED.replace("run", run), f"tokenizer={{path: {run}}}", *more, "carbon.enabled=true"],
        "lora": [*tune, "--from", run, LORA],
        "merged": [*tune, "--from", run, LORA.replace("2}", "2, merge: true}")],
    }
    with pytest.MonkeyPatch.context() as patch, serving(base / "run" / "checkpoints" / "step-000002") as hub:
        for name in ("USER", "LOGNAME", "USERNAME"):
            patch.setenv(name, USER)
        for name, words in commands.items():
            run_tfkit(base, [*words, "--run", str(base / name)], put_first(base / "fake") if name == "distilled" else None).exits(0)
        run_tfkit(base, [*tune, "--from", "hub:org/tiny", LORA, "--run", str(base / "lora-of-hub")], ask(hub, hub_cache)).exits(0)
        run_tfkit(base, ["average", str(base / "distilled"), "--last", "2", "--out", str(base / "mean")], put_first(base / "fake")).exits(0)
        load(base / "lora").save(base / "whole")
    foreign = base / "foreign"
    foreign.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / "run" / "checkpoints" / "step-000002" / name, foreign / name)
    for name, field in (("config.json", "_name_or_path"), ("tokenizer_config.json", "name_or_path")):
        (foreign / name).write_text(json.dumps(read_json(foreign / name) | {field: str(base / "run")}), encoding="utf-8")
    return base


@pytest.mark.parametrize("name", ["run", "tuned", "distilled", "merged", "lora-of-hub", "mean", "whole", "foreign"])
def test_no_file_that_is_sent_names_this_machine(kinds: Path, name: str) -> None:
    sent = prepare(str(kinds / name), "org/tiny", Silent()).files
    contents = {file: held if isinstance(held, bytes) else held.read_bytes() for file, held in sent.items()}
    assert {"config.json", "tokenizer.json"} <= contents.keys()
    if "adapter" not in "".join(contents) and name != "foreign":
        assert export_gguf(str(kinds / name), kinds / f"{name}.gguf", "f16", Silent())["tensors"]
        contents["gguf"] = (kinds / f"{name}.gguf").read_bytes()
    for file, content in contents.items():
        for secret in (str(kinds), kinds.parent.name, str(Path.home() / "x")[:-1], USER):
            assert secret.encode() not in content, (file, secret)
        if file.endswith((".json", ".md", ".csv", ".jinja")):
            assert not ABSOLUTE.findall(content), file
            assert platform.node() not in re.split(r"[^\w-]+", content.decode()), file
    if "manifest.json" in contents:
        for file, entry in json.loads(contents["manifest.json"])["files"].items():
            assert entry["sha256"] == hashlib.sha256(contents[file]).hexdigest(), file


def test_the_scan_finds_what_it_looks_for() -> None:
    for text in (b'"base": "/home/ada/x"', b"a,/srv/run/y,b", b"C:\\Users\\ada", b"from ~/data/rows.csv"):
        assert ABSOLUTE.search(text), text
    for text in (b"https://example.org/a/b", b"3/4 g/kWh", b"a and/or b", b'"./checkpoints/step"'):
        assert not ABSOLUTE.search(text), text


def test_an_adapter_names_its_base_on_the_hub_or_is_refused(kinds: Path) -> None:
    sent = prepare(str(kinds / "lora-of-hub"), "org/tiny", Silent()).files["adapter_config.json"]
    assert read_json(sent)["base_model_name_or_path"] == "org/tiny"
    run_here(["push", kinds / "lora", "org/tiny"]).exits(4, "merge them, python -c", ".save('WHOLE')")
