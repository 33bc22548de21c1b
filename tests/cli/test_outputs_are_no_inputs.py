"""No output of a command takes the place of what it reads, or comes to lie in a run or a model: refused with 2, and nothing has changed."""

import os
import shlex
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
from tiny_runs import pretrain, run_here, run_tfkit

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


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Return when each file and folder was changed last, and the content of the files."""
    return {path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")}


STEP = "run/checkpoints/step-000001"
PREDICTIONS = {  # --data, and each of --predictions
    "mine.jsonl": ["mine.jsonl", "./corpus/../mine.jsonl", "soft.jsonl", "hard.jsonl", "run/recipe.yaml", f"{STEP}/model.safetensors"],
    "soft.jsonl": ["mine.jsonl"],
    "mi*.jsonl": ["mine.jsonl", "mine-too.jsonl"],
    "**/*.jsonl": ["corpus/new.jsonl"],
    "corpus": ["corpus/0.txt", "folder-link/new.txt"],
}
OF_CORPUS = ["finetune --from run --data corpus training.steps=1", "evaluate --from run --data corpus"]
REFUSED = [
    *(f"evaluate --from run --data {data} --predictions {out}" for data, outs in PREDICTIONS.items() for out in outs),
    *(f"evaluate tiny.yaml --from run --predictions {out}" for out in ("corpus/3.txt", "tiny.yaml")),  # a source of the recipe, and itself
    *(f"{words} --run {run}" for run in ("corpus", "corpus/run", "folder-link/run") for words in (*OF_CORPUS, "pretrain tiny.yaml")),
    *(
        f"{words} --run run/checkpoints/step-000002{inside}"
        for inside in ("", "/x")
        for words in (*OF_CORPUS, "generate --from run --prompt the")
    ),
    *(  # of which a run would read what it writes
        f"pretrain tiny.yaml 'data.train=[{{path: \"{source}\"}}]' --run {run}"
        for source, run in (("**/*.md", "new"), ("new/metrics.jsonl", "new"), ("n*/*.jsonl", "new"), ("mine.jsonl", "mine.jsonl"))
    ),
    "generate --from run --input prompts.txt --run prompts.txt",
    *(f"average run --last 2 --out run/checkpoints/{out}" for out in ("mean", "step-000001/mean")),
]


def test_no_output_lies_in_what_is_read_or_in_a_run(work: Path) -> None:
    (work / "prompts.txt").write_text("the\n", encoding="utf-8")
    before = contents(work)
    for line in REFUSED:
        more = [] if line.startswith("average") else ["--threads", "1", "carbon.enabled=false"]
        done = run_here([*shlex.split(line), *more]).refuses(2)
        assert "this command reads" in done.err or "where nothing else belongs" in done.err, (line, done.err)
        assert contents(work) == before, line


def test_what_lies_beside_is_allowed(work: Path) -> None:
    run_here(["evaluate", "--from", "run", "--data", "mine.jsonl", "carbon.enabled=false", "--predictions", "other.jsonl"]).exits(0)
    assert len(Path("other.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    run_here(["pretrain", "run/recipe.yaml", "--run", "run", "--resume", "training.steps=3"]).exits(0)


# -- every option that names an output

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
    write_rows(base / "rows" / "rows.jsonl", [{"text": f"the cat {i}", "label": "ab"[i % 2]} for i in range(12)])
    data = f"data: {{train: [{{path: {base}/rows/rows.jsonl}}], validation: 0.3}}\nobjective: {{kind: classification}}"
    rest = "training: {steps: 1, batch_size: 4, precision: fp32}\ncarbon: {enabled: false}"
    (base / "classes.yaml").write_text(f"{ENCODER}\n{data}\n{rest}\n", encoding="utf-8")
    pretrain(base / "classes", base / "classes.yaml").exits(0)
    shutil.copytree(base / "run", base / "other")
    (base / "run" / "carbon").mkdir()
    grid = "time,g_per_kwh\n2020-01-01T00:00Z,100\n"
    files = {"model/config.json": '{"model_type": "gpt2"}', "adapter/adapter_config.json": "{}", "grid.csv": grid}
    for name, text in files.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text, encoding="utf-8")
    return base


def test_every_option_of_an_output_is_tried_here() -> None:
    group = typer.main.get_command(app)
    found = set()
    for name in COMMANDS:
        for option in group.get_command(None, name).params:
            found |= {(name, option.opts[0])} if option.metavar in ("F", "DIR") else set()
    assert {(name, option) for name, option in found if option not in ("--data", "--input", "--run")} == set(OUTPUTS)


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
        threads = ["--threads", "1"] if name in ("evaluate", "predict", "embed") else []
        err = run_here([*words, option, target, *threads]).exits(2).err
    reasons = ("this command reads", "nothing else belongs", "already exists", "not a page", "nothing is written in")
    assert any(reason in err for reason in reasons), (target, err)
    assert contents(place) == before


GRPO = "objective={kind: grpo, rules: [{kind: python, function: 'rule.py:reward', allow_code: true}], max_new_tokens: 4}"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("names.csv", "a\nb\n", [*OUTPUTS["predict", "--out"][0], "data.validation.0.class_names=names.csv", "--out"]),
        (
            "rule.py",
            "def reward(row, text):\n    return 1.0\n",
            [*OUTPUTS["evaluate", "--predictions"][0], GRPO, "--allow-code", "--predictions"],
        ),
    ],
    ids=["names of classes", "functions"],
)
def test_files_that_a_section_names_are_inputs(place: Path, in_place: None, file: str, content: str, words: list[str]) -> None:
    Path(file).write_text(content, encoding="utf-8")
    run_here([*words, file, "--threads", "1"]).exits(2, f" {file} itself, which this command reads")
    assert Path(file).read_text(encoding="utf-8") == content


def test_an_output_does_not_lie_in_the_run_folder_of_its_own_command(place: Path, in_place: None) -> None:
    Path("kept").mkdir()
    run_here([*OUTPUTS["evaluate", "--predictions"][0], "--run", "kept", "--predictions", "kept/p.jsonl", "--threads", "1"]).exits(2)
    assert not [*Path("kept").iterdir()]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "option"), [key for key in OUTPUTS if key[0] in ("evaluate", "predict", "report")])
@pytest.mark.parametrize("kind", ["device", "stdout", "pipe", "link"])
def test_devices_pipes_and_links_are_written_into(place: Path, tmp_path: Path, in_place: None, name: str, option: str, kind: str) -> None:
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
        run_here([*OUTPUTS[name, option][0], option, "old.jsonl"]).exits(0)
        assert Path("old.jsonl").read_text(encoding="utf-8").startswith("{")


@pytest.mark.parametrize("words", [["generate", "--prompt", "the"], ["evaluate", "--data", "corpus"]])
def test_the_folder_of_a_training_is_not_offered_for_resuming_by_another_command(work: Path, words: list[str]) -> None:
    run_here([*words, "--from", "run", "--run", "run"]).exits(2, "holds checkpoints of an earlier run. Give another folder with --run")
