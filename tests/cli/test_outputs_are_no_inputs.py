"""No output of a command takes the place of what it reads, or comes to lie in a run or a model: refused with 2, and nothing has changed."""

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import typer
from answer_runs import ENCODER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_files import write_rows
from tiny_runs import Done, pretrain, run_tfkit

from tfkit.cli import COMMANDS, app


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """A corpus, a base / "tiny.yaml", rows, and a run with two checkpoints."""
    write_rows(base / "mine.jsonl", [{"text": f"the cat sat on {i}"} for i in range(4)])
    pretrain(base / "run", base / "tiny.yaml", "training.steps=2", "checkpoint.every=1", "evaluation.every=null").exits(0)
    return base


@pytest.fixture
def work(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "work"
    shutil.copytree(base, place)
    recipe = place / "tiny.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(base), str(place)), encoding="utf-8")
    os.link(place / "mine.jsonl", place / "hard.jsonl")
    (place / "soft.jsonl").symlink_to("mine.jsonl")
    (place / "folder-link").symlink_to("corpus")
    monkeypatch.chdir(place)
    return place


def assert_refused(work: Path, *words: str) -> None:
    before = {path: path.lstat().st_mtime_ns for path in sorted(work.rglob("*"))}
    contents = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    done: Done = run_tfkit(work.parent, list(words))
    assert (done.code, done.out) == (2, ""), done.err
    assert "this command reads" in done.err or "where nothing else belongs" in done.err, done.err
    assert {path: path.lstat().st_mtime_ns for path in sorted(work.rglob("*"))} == before
    assert {path: path.read_bytes() for path in contents} == contents


PREDICTIONS = [  # --data, and --predictions
    ("mine.jsonl", "mine.jsonl"),
    ("mine.jsonl", "./corpus/../mine.jsonl"),
    ("mine.jsonl", "soft.jsonl"),
    ("mine.jsonl", "hard.jsonl"),
    ("soft.jsonl", "mine.jsonl"),
    ("mi*.jsonl", "mine.jsonl"),
    ("mi*.jsonl", "mine-too.jsonl"),
    ("**/*.jsonl", "corpus/new.jsonl"),
    ("corpus", "corpus/0.txt"),
    ("corpus", "folder-link/new.txt"),
    ("mine.jsonl", "run/recipe.yaml"),
    ("mine.jsonl", "run/checkpoints/step-000001/model.safetensors"),
]


def test_predictions_replace_nothing_that_is_read(work: Path) -> None:
    for data, predictions in PREDICTIONS:
        words = ["--from", "run", "--data", data, "carbon.enabled=false", "--threads", "1"]
        assert_refused(work, "evaluate", *words, "--predictions", predictions)


def test_predictions_in_a_source_of_the_recipe_or_in_the_recipe_itself(work: Path) -> None:
    for predictions in ("corpus/3.txt", "tiny.yaml"):
        assert_refused(work, "evaluate", "tiny.yaml", "--from", "run", "--predictions", predictions, "--threads", "1")


def test_a_run_folder_lies_in_no_data_and_no_checkpoint(work: Path) -> None:
    for folder in ("corpus", "corpus/run", "folder-link/run", "run/checkpoints/step-000002", "run/checkpoints/step-000002/x"):
        words = ["--run", folder, "--threads", "1", "carbon.enabled=false"]
        assert_refused(work, "finetune", "--from", "run", "--data", "corpus", "training.steps=1", *words)
        assert_refused(work, "evaluate", "--from", "run", "--data", "corpus", *words)
        if folder.startswith("run/"):
            assert_refused(work, "generate", "--from", "run", "--prompt", "the", *words)
        else:
            assert_refused(work, "pretrain", "tiny.yaml", "--run", folder, "--threads", "1")


def test_what_a_run_writes_is_not_read_as_its_data(work: Path) -> None:
    for source, folder in (("**/*.md", "new"), ("new/metrics.jsonl", "new"), ("n*/*.jsonl", "new"), ("mine.jsonl", "mine.jsonl")):
        assert_refused(work, "pretrain", "tiny.yaml", f"data.train=[{{path: '{source}'}}]", "--run", folder, "--threads", "1")


def test_prompts_and_averages(work: Path) -> None:
    (work / "prompts.txt").write_text("the\n", encoding="utf-8")
    words = ["--from", "run", "--threads", "1", "carbon.enabled=false"]
    assert_refused(work, "generate", *words, "--input", "prompts.txt", "--run", "prompts.txt")
    for out in ("run/checkpoints/mean", "run/checkpoints/step-000001/mean"):
        assert_refused(work, "average", "run", "--last", "2", "--out", out)


def test_what_lies_beside_is_allowed(work: Path) -> None:
    words = ["--from", "run", "--data", "mine.jsonl", "carbon.enabled=false", "--threads", "1"]
    run_tfkit(work.parent, ["evaluate", *words, "--predictions", "other.jsonl"]).exits(0)
    assert len(Path("other.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    run_tfkit(work.parent, ["pretrain", "run/recipe.yaml", "--run", "run", "--resume", "training.steps=3", "--threads", "1"]).exits(0)


# -- every option that names an output

RULE = "def reward(row, text):\n    return 1.0\n"
OUTPUTS = {  # the command up to the output's name, and the inputs that it reads; all folders are runs or models
    ("evaluate", "--predictions"): (["evaluate", "--from", "run", "--data", "mine.jsonl"], ["mine.jsonl"]),
    ("predict", "--out"): (["predict", "--from", "classes", "--data", "rows/rows.jsonl"], ["rows/rows.jsonl"]),
    ("embed", "--out"): (["embed", "--from", "classes", "--data", "rows/rows.jsonl"], []),
    ("report", "--html"): (["report", "run", "classes"], []),
    ("inspect", "--html"): (["inspect", "--from", "run", "--attention", "the cat"], []),
    ("export", "--gguf"): (["export", "run"], []),
    ("average", "--out"): (["average", "run", "--last", "2"], []),
}
WITH_RECIPE = ["evaluate", "tiny.yaml", "--from", "run", "carbon={enabled: true, intensity_file: grid.csv}"]
FOLDERS = ["run", "run/checkpoints", "run/checkpoints/step-000001", "run/carbon", "classes", "other", "model", "adapter"]
FILES = ["run.json", "metrics.jsonl", "lock", "recipe.yaml", "config.json", "model.safetensors", "adapter_config.json", "new.jsonl"]


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """The folder of `base` with a classifier, a run and folders of models that no command here reads."""
    (base / "rows").mkdir()
    rows = [{"text": f"the cat {i}", "label": "ab"[i % 2]} for i in range(12)]
    write_rows(base / "rows" / "rows.jsonl", rows)
    data = f"data: {{train: [{{path: {base}/rows/rows.jsonl}}], validation: 0.3}}\nobjective: {{kind: classification}}"
    rest = "training: {steps: 1, batch_size: 4, precision: fp32}\ncarbon: {enabled: false}"
    (base / "classes.yaml").write_text(f"{ENCODER}\n{data}\n{rest}\n", encoding="utf-8")
    pretrain(base / "classes", base / "classes.yaml").exits(0)
    shutil.copytree(base / "run", base / "other")
    (base / "run" / "carbon").mkdir()
    (base / "model").mkdir()
    (base / "model" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (base / "adapter").mkdir()
    (base / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (base / "grid.csv").write_text("time,g_per_kwh\n2020-01-01T00:00Z,100\n", encoding="utf-8")
    (base / "notes.txt").write_text("mine", encoding="utf-8")
    return base


def test_every_option_of_an_output_is_tried_here() -> None:
    group = typer.main.get_command(app)
    found = set()
    for name in COMMANDS:
        for option in group.get_command(None, name).params:
            found |= {(name, option.opts[0])} if option.metavar in ("F", "DIR") else set()
    assert {(name, option) for name, option in found if option not in ("--data", "--input", "--run")} == set(OUTPUTS)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.thorough
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.data())
def test_no_output_replaces_an_input_or_lies_in_a_run_or_a_model(place: Path, in_place: None, drawn: st.DataObject) -> None:
    (name, option), (words, inputs) = drawn.draw(st.sampled_from(sorted(OUTPUTS.items())))
    if name == "evaluate" and drawn.draw(st.booleans()):
        words, inputs = WITH_RECIPE, ["tiny.yaml", "grid.csv", "corpus/0.txt"]
    in_folders = st.builds(lambda folder, file: f"{folder}/{file}", st.sampled_from(FOLDERS), st.sampled_from(FILES))
    target = Path(drawn.draw(st.sampled_from(inputs) | in_folders if inputs else in_folders))
    target = target.with_suffix(".npy") if name == "embed" else target
    before = contents(place)
    with tempfile.TemporaryDirectory() as elsewhere:
        link = Path(elsewhere, target.name)
        match drawn.draw(st.sampled_from(["plain", "absolute", "dots", "link", "linked folder", *(["hard link"] if inputs else [])])):
            case "absolute":
                target = target.absolute()
            case "dots":
                target = Path("corpus", "..", target)
            case "link":
                link.symlink_to(target.absolute())
                target = link
            case "linked folder":
                Path(elsewhere, "folder").symlink_to(target.parent.absolute())
                target = Path(elsewhere, "folder", target.name)
            case "hard link":
                os.link(inputs[0], link)
                target = link
        done = run_tfkit(
            place.parent, [*words, option, str(target), *(["--threads", "1"] if name in ("evaluate", "predict", "embed") else [])]
        )
    assert done.code == 2, (target, done.err)
    assert any(
        reason in done.err
        for reason in ("this command reads", "nothing else belongs", "already exists", "not a page", "nothing is written in")
    ), done.err
    assert contents(place) == before


def test_predictions_do_not_replace_the_names_of_the_classes(place: Path, in_place: None) -> None:
    Path("names.csv").write_text("a\nb\n", encoding="utf-8")
    words = ["--from", "classes", "--data", "rows/rows.jsonl", "data.validation.0.class_names=names.csv", "--threads", "1"]
    done = run_tfkit(place.parent, ["predict", *words, "--out", "names.csv"])
    assert (done.code, Path("names.csv").read_text(encoding="utf-8")) == (2, "a\nb\n"), done.err
    assert "names.csv itself, which this command reads" in done.err


def test_an_output_does_not_lie_in_the_run_folder_of_its_own_command(place: Path, in_place: None) -> None:
    Path("kept").mkdir()
    words, _ = OUTPUTS["evaluate", "--predictions"]
    done = run_tfkit(place.parent, [*words, "--run", "kept", "--predictions", "kept/p.jsonl", "--threads", "1"])
    assert (done.code, list(Path("kept").iterdir())) == (2, []), done.err


def test_files_of_functions_are_inputs(place: Path, in_place: None) -> None:
    Path("rule.py").write_text(RULE, encoding="utf-8")
    objective = "objective={kind: grpo, rules: [{kind: python, function: 'rule.py:reward', allow_code: true}], max_new_tokens: 4}"
    words = ["evaluate", "--from", "run", "--data", "mine.jsonl", objective, "--predictions", "rule.py", "--threads", "1", "--allow-code"]
    done = run_tfkit(place.parent, words)
    assert (done.code, Path("rule.py").read_text(encoding="utf-8")) == (2, RULE)
    assert "is rule.py itself, which this command reads" in done.err, done.err


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "option"), [key for key in OUTPUTS if key[0] in ("evaluate", "predict", "report")])
@pytest.mark.parametrize("kind", ["device", "stdout", "pipe", "link"])
def test_devices_pipes_and_links_are_written_directly(
    place: Path, tmp_path: Path, in_place: None, name: str, option: str, kind: str
) -> None:
    path = {"device": Path("/dev/null"), "stdout": Path("/dev/stdout")}.get(kind, tmp_path / "out")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    if kind == "pipe":
        os.mkfifo(path)
        reader.start()
    if kind == "link":
        path.symlink_to(tmp_path / "target")
    kind_before = path.lstat().st_mode
    words, _ = OUTPUTS[name, option]
    done = run_tfkit(place.parent, [*words, option, str(path), *(["--threads", "1"] if name != "report" else [])], lambda: None).exits(0)
    assert path.lstat().st_mode == kind_before
    if kind == "stdout":
        read = [done.out.encode()]
    if kind == "pipe":
        reader.join(60)
    if kind == "link":
        read = [(tmp_path / "target").read_bytes()]
    first = {"evaluate": b'{"place"', "predict": b'{"text"', "report": b"<!"}[name]
    assert kind == "device" or first in read[0].lower(), read


def test_other_files_are_replaced(place: Path, in_place: None) -> None:
    for name, option in (("evaluate", "--predictions"), ("predict", "--out")):
        Path("old.jsonl").write_text("mine", encoding="utf-8")
        run_tfkit(place.parent, [*OUTPUTS[name, option][0], option, "old.jsonl", "--threads", "1"]).exits(0)
        assert Path("old.jsonl").read_text(encoding="utf-8").startswith("{")


@pytest.mark.parametrize("words", [["generate", "--prompt", "the"], ["evaluate", "--data", "corpus"]])
def test_the_folder_of_a_training_is_not_offered_for_resuming_by_another_command(work: Path, words: list[str]) -> None:
    done = run_tfkit(work.parent, [*words, "--from", "run", "--run", "run"])
    done.exits(2, "holds checkpoints of an earlier run. Give another folder with --run")
