"""Paths that leave the run folder, links in it, and places where no run folder can be: refused, and nothing is written outside.

The places are those of a training; other commands with --run are in test_exit_code_matrix.py.
"""

import itertools
import json
import os
import shutil
import signal
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_files import read_json
from tiny_runs import Done, both, kept, pretrain, run_here, run_tfkit, strike


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """A recipe, its corpus, and a run that was stopped after step 4, with one checkpoint."""
    pretrain(base / "stopped", base / "tiny.yaml", before=strike(signal.SIGTERM, 4)).exits(143)
    assert kept(base / "stopped") == ["step-000004"]
    return base


@pytest.fixture
def stopped(base: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(base / "stopped", tmp_path / "run"))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file in it that must be the same afterwards."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine", encoding="utf-8")
    before = listing(folder)
    yield folder
    assert listing(folder) == before


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: when it was changed, and what is in it."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def assert_refused(done: Done, code: int, *words: str) -> None:
    assert len(done.refuses(code, *words).err.strip().splitlines()) == 1, done.err


# -- F34: names and paths


@pytest.mark.parametrize("name", ["a/../../outside", "runs/../outside", "a/b/../../../../../etc", "outside/.."])
def test_f34_a_path_that_turns_back(base: Path, tmp_path: Path, outside: Path, name: str) -> None:
    before = sorted(os.listdir(tmp_path))
    done = run_here(["pretrain", base / "tiny.yaml", "--run", name], tmp_path)
    assert_refused(done, 2, "leaves the folder that it begins with", "--run")
    assert sorted(name for name in os.listdir(tmp_path) if not name.startswith(("out-", "err-"))) == before


@pytest.mark.parametrize("name", ["a b", "-x", ".hidden", "é", "x\ny", "$(id)", "x" * 200 + "é"])
def test_f34_a_name_that_is_no_slug(base: Path, tmp_path: Path, name: str) -> None:
    done = run_tfkit(tmp_path, ["pretrain", str(base / "tiny.yaml"), f"--run={tmp_path / name}"])
    assert_refused(done, 2, "run name", "--run")
    assert not (tmp_path / name).exists()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["...yaml", "..yaml", "a;b c.yaml", "-x.yaml", "CON.yaml", "é.yaml", ".yaml"])
def test_f34_a_recipe_of_any_name_has_its_run_below_runs(base: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "work").mkdir()
    shutil.copy(base / "tiny.yaml", tmp_path / "work" / name)
    run_here(["pretrain", f"./{name}", "training.steps=2"], tmp_path / "work").exits(0)
    assert sorted(os.listdir(tmp_path / "work")) == sorted([name, "runs"])
    assert len(os.listdir(tmp_path / "work" / "runs")) == 1


# -- F34: links

PLACES = [
    *("recipe.yaml", "run.json", "metrics.jsonl", "emissions.csv", "lock", "crash.log", "carbon", "checkpoints", "tensorboard", "replay"),
    *("checkpoints/step-000012", "checkpoints/best.json", "carbon/ledger.jsonl", "tensorboard/events"),
]


@pytest.mark.parametrize(("place", "target"), [*zip(PLACES, itertools.cycle(["precious.txt", ".", "new"]), strict=False)])
def test_f34_a_link_where_a_run_writes(base: Path, tmp_path: Path, outside: Path, place: str, target: str) -> None:
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / target)
    for words in ([], ["--resume"]):
        assert_refused(pretrain(tmp_path / "run", base / "tiny.yaml", *words), 2, f"{link}: a link; nothing is written through it", "--run")


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/step-000004"])
def test_f34_checkpoints_that_were_moved_behind_a_link(base: Path, tmp_path: Path, stopped: Path, place: str) -> None:
    elsewhere = Path(shutil.move(stopped / place, tmp_path / "elsewhere"))
    (stopped / place).symlink_to(elsewhere)
    before = listing(elsewhere)
    assert_refused(pretrain(stopped, base / "tiny.yaml", "--resume"), 2, "a link; nothing is written through it")
    assert listing(elsewhere) == before


@pytest.mark.parametrize("words", [["evaluate"], ["generate", "--prompt", "the"]], ids=lambda words: words[0])
def test_f34_a_link_in_the_run_folder_of_another_command(base: Path, tmp_path: Path, outside: Path, words: list[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").symlink_to(outside / "precious.txt")
    done = run_here([*words, "--from", base / "stopped", "--run", tmp_path / "run"])
    assert_refused(done, 2, "a link; nothing is written through it")


def test_f34_a_card_that_became_a_link_is_replaced(base: Path, stopped: Path, outside: Path) -> None:
    """README.md is no part of the manifest, so the checkpoint is whole; the scores of an evaluation are written to its card."""
    card = stopped / "checkpoints" / "step-000004" / "README.md"
    card.unlink()
    card.symlink_to(outside / "precious.txt")
    (stopped / "metrics.jsonl").unlink()  # the evaluation of step 4 is made up for
    pretrain(stopped, base / "tiny.yaml", "--resume", before=strike(signal.SIGTERM, 1)).exits(143)
    assert not card.is_symlink()


# -- F34: manifests


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "name", ["../precious.txt", "/etc/passwd", "a/../../x", "a\\..\\x", "C:/x", "./config.json", "a//b", "", "..", "a\0b"]
)
def test_f34_a_manifest_that_names_what_is_outside(base: Path, stopped: Path, name: str) -> None:
    checkpoint = stopped / "checkpoints" / "step-000004"
    document = read_json(checkpoint / "manifest.json")
    document["files"][name] = document["files"].pop("tfkit.json")
    (checkpoint / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    pretrain(stopped, base / "tiny.yaml", "--resume", "--exact").refuses(4, "manifest.json")
    for words in (["generate", "--prompt", "the"], ["evaluate"]):
        run_here([*words, "--from", checkpoint]).refuses(4, "manifest.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training_state"])
def test_f34_a_file_of_a_checkpoint_that_became_a_link(base: Path, tmp_path: Path, stopped: Path, name: str) -> None:
    """Though it leads to the very same bytes."""
    path = stopped / "checkpoints" / "step-000004" / name
    path.symlink_to(shutil.move(path, tmp_path / name))
    pretrain(stopped, base / "tiny.yaml", "--resume", "--exact").refuses(4, "a link, where the checkpoint had a file")


# -- F17


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are the user's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def as_nobody() -> None:
    """Without the right of root to write anywhere."""
    if os.geteuid() == 0:
        os.setuid(65534)


@pytest.fixture
def refused_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Returns the message of a training there: exit 5, soon, before data or a model are touched."""
    cache = tmp_path / "cache-that-stays-unmade"
    monkeypatch.setenv("TFKIT_CACHE", str(cache))

    def refused(recipe: Path, run: Path, *words: str, before: Callable[[], object] | None = None) -> str:
        done = run_tfkit(tmp_path, ["pretrain", recipe, "--run", run, *words], before)
        assert done.processor_seconds < 5
        assert_refused(done, 5, "cannot be a run folder (", "with --run")
        assert not cache.exists()
        return done.err

    return refused


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "File exists"),
        ("file/run", "Not a directory"),
        ("gone/run", "is its disk mounted"),
        ("gone", "is its disk mounted"),
        ("loop/run", "is its disk mounted"),
        ("x" * 300, "File name too long"),
        ("/proc/run", "No such file or directory"),
        ("/sys/run", ""),
        ("/dev/null/run", "Not a directory"),
    ],
)
def test_f17_places_that_cannot_be_a_folder(base: Path, tmp_path: Path, refused_place: Callable[..., str], place: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "mnt" / "disk")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert reason in refused_place(base / "tiny.yaml", tmp_path / place)
    assert not (tmp_path / "mnt").exists(), "a run would fill the disk below the mount point"


@pytest.mark.parametrize("where", ["the parent", "the folder", "its lock", "its checkpoints"])
def test_f17_a_read_only_place(base: Path, refused_place: Callable[..., str], open_folder: Path, where: str) -> None:
    run = open_folder / "run"
    recipe = shutil.copy(base / "tiny.yaml", open_folder)
    if where != "the parent":
        run.mkdir()
        run.chmod(0o555 if where == "the folder" else 0o777)
    if where == "its lock":
        (run / "lock").touch(0o444)
    if where == "its checkpoints":
        (run / "checkpoints").mkdir(mode=0o555)
    assert "Permission denied" in refused_place(recipe, run, before=as_nobody)


def test_f17_a_run_of_another_user_that_is_closed_hides_no_other(base: Path, tmp_path: Path, open_folder: Path) -> None:
    for name in ("closed", "open", "without-checkpoints"):
        shutil.copytree(base / "stopped", open_folder / "runs" / name)
    (open_folder / "runs" / "closed").chmod(0o700)
    (open_folder / "runs" / "without-checkpoints" / "checkpoints").chmod(0o700)
    done = run_tfkit(tmp_path, ["runs", open_folder / "runs", "--json"], as_nobody).exits(0)
    found = {Path(run["run"]).name: (run["status"], run["problem"]) for run in json.loads(done.out)["runs"]}
    assert found == {
        "closed": ("damaged", "run.json: Permission denied"),
        "open": ("stopped", None),
        "without-checkpoints": ("damaged", "checkpoints: Permission denied"),
    }
    done = run_tfkit(tmp_path, ["report", open_folder / "runs"], as_nobody).exits(0)
    assert done.out.splitlines()[0].split() == ["run", "open:", "pretrain,", "stopped"]
    assert f"{open_folder / 'runs' / 'closed'}: cannot be read, and left out (Permission denied)" in done.out + done.err
    assert "without-checkpoints: damaged, and left out (checkpoints: Permission denied)" in done.out + done.err


def test_f17_a_finished_run_that_is_read_only_gives_its_result_again(base: Path, tmp_path: Path, open_folder: Path) -> None:
    recipe = (base / "tiny.yaml").read_text(encoding="utf-8").replace("steps: 12", "steps: 2")
    chain = "stages:\n  only:\n" + textwrap.indent(recipe, "    ")
    for name, text, longer in (("single", recipe, "training.steps=3"), ("chain", chain, "only.training.steps=3")):
        run, path = open_folder / name, open_folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        result = run_here(["pretrain", path, "--run", run, "--json"]).exits(0).document
        folders = [path for path in (run, *run.rglob("*")) if path.is_dir()]
        for folder in folders:
            folder.chmod(0o555)
        before = listing(run)
        done = run_tfkit(tmp_path, ["resume", str(run), "--json"], as_nobody).exits(0, "here is its result again")
        assert (done.document, "cannot be written" in done.err) == (result, False), done.err
        run_tfkit(tmp_path, ["resume", str(run), longer], as_nobody).refuses(5, "cannot be a run folder (Permission denied)")
        assert listing(run) == before
        for folder in folders:
            folder.chmod(0o755)


def test_f17_the_weights_of_another_user_that_are_closed(base: Path, tmp_path: Path, open_folder: Path) -> None:
    run = shutil.copytree(base / "stopped", open_folder / "run")
    (run / "checkpoints" / "step-000004" / "model.safetensors").chmod(0)
    done = run_tfkit(tmp_path, ["evaluate", "--from", run, "carbon.enabled=false"], as_nobody)
    done.exits(4, "model.safetensors: cannot be read (Permission denied); check its permissions and its disk")


@pytest.mark.parametrize(
    ("closed", "pattern"),
    [
        *((closed, "") for closed in ("corpus", "corpus/part", "corpus/.cache")),
        *(("corpus/part", pattern) for pattern in ("*", "*/*", "*/0.txt", "*/more/**/*", "**/*")),
        *((closed, "*/0.txt") for closed in ("corpus/.cache", "corpus/lost+found")),
    ],
)
def test_f17_a_folder_of_data_that_is_closed_is_not_left_out(
    base: Path, tmp_path: Path, open_folder: Path, closed: str, pattern: str
) -> None:
    recipe = shutil.copy(base / "tiny.yaml", open_folder)
    corpus = shutil.copytree(base / "corpus", open_folder / "corpus")
    shutil.copytree(base / "corpus", corpus / "open" / "more")
    shutil.copy(corpus / "0.txt", corpus / "open")
    (open_folder / closed).mkdir(exist_ok=True)
    (open_folder / closed).chmod(0)
    (open_folder / "run").mkdir()
    (open_folder / "run").chmod(0o777)

    prepare = both(as_nobody, lambda: os.environ.update(TFKIT_CACHE=str(open_folder / "run" / "cache")))
    done = run_tfkit(tmp_path, ["inspect", recipe, f"data.train=[{{path: '{corpus / pattern}'}}]"], prepare)
    if closed in ("corpus/.cache", "corpus/lost+found") or (closed, pattern) == ("corpus/part", "*"):
        done.exits(0)
    else:
        assert_refused(done, 3, f"{open_folder / closed}: cannot be read (Permission denied); check")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["other", "pipe"])
@pytest.mark.parametrize("name", ["run.json", "checkpoints", "metrics.jsonl", "recipe.yaml", "carbon", "emissions.csv", "lock", "replay"])
def test_f17_something_else_in_the_way(
    base: Path, tmp_path: Path, refused_place: Callable[..., str], name: str, kind: str, resume: bool
) -> None:
    """A folder where a file is to be, or a file where a folder is; or a pipe, at which a run would wait for ever."""
    run, is_folder = tmp_path / "run", name in ("checkpoints", "carbon", "replay")
    run.mkdir()
    (os.mkfifo if kind == "pipe" else Path.touch if is_folder else Path.mkdir)(run / name)
    assert f"{name} is not a " in refused_place(base / "tiny.yaml", run, *["--resume"] * resume)
