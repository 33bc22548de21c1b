"""Ranks whose disks have other files at the paths of a recipe: all of them end before the first step, and name the rank and the file."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_files import flip, read_json
from tiny_runs import Done, Replaced, run_here, write_corpus, write_recipe
from two_ranks import ended, start_ranks, write_prompts_and_pairs

from tfkit.engine.assembly import rank_inputs

CODE = "def reward(row, text):\n    return float('a' in text)\n"
FINETUNED = """
model: {from: base}
data: {train: [{path: corpus}]}
training: {steps: 2, batch_size: 4, precision: fp32}
carbon: {enabled: false}
"""
GRPO = f"""{FINETUNED.replace("path: corpus", "path: prompts.jsonl")}
objective: {{kind: grpo, RULES, prompts: 2, completions: 4, max_new_tokens: 4}}
"""
REWARD = f"{FINETUNED.replace('path: corpus', 'path: pairs.jsonl')}\nobjective: {{kind: reward}}\n"
RECIPES = {
    "finetuned": FINETUNED,
    "coded": GRPO.replace("RULES", "rules: [{kind: python, function: 'code.py:reward', allow_code: true}]"),
    "rewarded": GRPO.replace("RULES", "reward: scores"),
    "reward": REWARD,
}
SCRATCH = ["pretrain", "tiny.yaml", "training.steps=2"]
HELD_OUT = [*SCRATCH, "data.validation=[{path: held_out}]"]
OTHER = "is not the same on all ranks:"
OWN_TOKENIZER = "tokenizer={path: base}"
TEACHER = "objective={kind: distillation, teacher: base, of: {kind: causal_lm}}"


def append(name: str, text: str = " dog") -> Callable[[Path], None]:
    """Return a change of a disk: a text is added to a file."""

    def change(disk: Path) -> None:
        with (disk / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def replace(name: str) -> Callable[[Path], None]:
    """Return a change of a disk: a model or tokenizer is replaced by another one."""

    def change(disk: Path) -> None:
        shutil.rmtree(disk / name)
        (disk / f"other-{name}").rename(disk / name)

    return change


def flip_base(disk: Path) -> None:
    flip(disk / "base/model.safetensors")


def more_texts(disk: Path) -> None:
    for number in range(5):
        (disk / f"corpus/new-{number}.txt").write_text("a cat", encoding="utf-8")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    write_corpus(folder / "corpus")
    write_corpus(folder / "held_out", files=2)
    write_prompts_and_pairs(folder)
    (folder / "code.py").write_text(CODE, encoding="utf-8")
    recipe = write_recipe(folder, Path("corpus"))
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    with contextlib.chdir(folder):
        for name, words in (
            ("base", ["pretrain", recipe, "training.steps=2"]),
            ("other-base", ["pretrain", recipe, "training.steps=2", "tokenizer.vocab_size=290"]),
            ("scores", ["finetune", "reward.yaml", "optimizer.lr=1e-2"]),
            ("other-scores", ["finetune", "reward.yaml", "optimizer.lr=1e-2", "training.seed=2"]),
        ):
            run_here([*words, "--run", "run", "--threads", "1"]).exits(0)
            shutil.move("run/checkpoints/step-000002", name)
            shutil.rmtree("run")
    return folder


def run_on_two_disks(disk: Path, folder: Path, words: list[str], change: Callable[[Path], None], *, with_run: bool = True) -> list[Done]:
    """Run a command on two ranks, each in a copy of the disk, that of rank 1 changed, with a cache of its own, and into a run folder."""
    disks = [folder / f"disk-{rank}" for rank in range(2)]
    for copy in disks:
        shutil.copytree(disk, copy)
    change(disks[1])

    def on(copy: Path) -> Callable[[], None]:
        def enter() -> None:
            os.chdir(copy)
            os.environ["TFKIT_CACHE"] = str(copy / "cache")

        return enter

    command = [*words, *(["--run", str(folder / "run")] if with_run else []), "--threads", "1"]
    return [process.wait() for process in start_ranks(folder, command, {rank: on(copy) for rank, copy in enumerate(disks)})]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    ("words", "change", "code", "message"),
    [
        (SCRATCH, append("corpus/3.txt"), 3, f"data.train.0: corpus {OTHER} on rank 1, corpus/3.txt is another"),
        ([*SCRATCH, OWN_TOKENIZER], append("corpus/3.txt"), 3, "on rank 1, corpus/3.txt is another file"),
        (SCRATCH, lambda disk: (disk / "corpus/3.txt").unlink(), 3, "on rank 1, corpus/3.txt is missing"),
        (SCRATCH, more_texts, 3, "corpus/new-0.txt is added, corpus/new-1.txt is added, corpus/new-2.txt is added, and 2 more differ"),
        (SCRATCH, lambda disk: shutil.rmtree(disk / "corpus"), 3, "rank 1: corpus: no such file or folder"),
        (HELD_OUT, append("held_out/1.txt"), 3, f"data.validation.0: held_out {OTHER} on rank 1, held_out/1.txt is another file"),
        ([*SCRATCH, OWN_TOKENIZER], replace("base"), 4, f"tokenizer.path: base {OTHER} on rank 1, "),
        ([*SCRATCH, OWN_TOKENIZER, TEACHER], replace("base"), 4, "tokenizer.json is another file"),
        ([*SCRATCH, TEACHER, OWN_TOKENIZER, "parallel.shard=2"], flip_base, 4, "rank 1: base/model.safetensors: damaged"),
        (["finetune", "finetuned.yaml"], replace("base"), 4, f"model.from: base {OTHER} on rank 1, "),
        (["finetune", "rewarded.yaml"], replace("scores"), 4, f"objective.reward: scores {OTHER} on rank 1, "),
        (["finetune", "coded.yaml"], append("code.py", "# more\n"), 3, f"code.py {OTHER} on rank 1 it is another file"),
        (["finetune", "coded.yaml"], append("prompts.jsonl", '{"prompt": "a"}\n'), 3, "on rank 1, prompts.jsonl is another file"),
    ],
)
def test_all_ranks_end_with_the_code_of_the_difference(
    disk: Path, tmp_path: Path, words: list[str], change: Callable[[Path], None], code: int, message: str
) -> None:
    done = ended(run_on_two_disks(disk, tmp_path, words, change), code)
    assert message in done[0].err
    assert message.removeprefix("rank 1: ") in done[1].err
    assert read_json(tmp_path / "run/run.json")["status"] == "failed"
    assert not any((tmp_path / "run").glob("checkpoints/step-*"))


def test_files_that_are_not_read_may_differ(disk: Path, tmp_path: Path) -> None:
    def change(disk: Path) -> None:
        for name in ("held_out/1.txt", "base/README.md", "base/training_state/state.json"):
            append(name, " ")(disk)

    done = ended(run_on_two_disks(disk, tmp_path, ["finetune", "finetuned.yaml"], change), 0)
    assert "warning" not in done[1].err


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("words", "change", "warns"),
    [
        (["finetune", "finetuned.yaml"], append("finetuned.yaml", "# more\n"), True),
        (["pretrain", "tiny.yaml"], lambda disk: (disk / "tiny.yaml").unlink(), False),
    ],
)
def test_the_recipe_of_rank_0_is_trained(disk: Path, tmp_path: Path, words: list[str], change: Callable[[Path], None], warns: bool) -> None:
    """Another rank says so if it has another recipe; it needs none."""
    done = ended(run_on_two_disks(disk, tmp_path, [*words, "training.steps=2"], change), 0)
    assert (f"rank 1: {words[1]} or its key=value differ from those of rank 0, whose recipe is trained" in done[1].err) == warns


@pytest.mark.sampled(4)
@pytest.mark.parametrize("words", [
    ["evaluate", "--from", "scores", "--data", "pairs.jsonl", "objective={kind: reward}"],
    ["predict", "--from", "scores", "--data", "pairs.jsonl", "data.validation.0.columns={completion: chosen}"],
    ["embed", "--from", "base", "--data", "pairs.jsonl", "--field", "chosen"],
    ["generate", "--from", "base", "--input", "prompts.jsonl", "--max-new-tokens", "2"],
], ids=lambda words: words[0])  # fmt: skip
def test_a_command_that_does_not_train_compares_its_model_and_rows(disk: Path, tmp_path: Path, words: list[str]) -> None:
    model, rows = words[2], words[4]
    for name, change, code, place in (
        ("same", append(f"{model}/README.md", "dog"), 0, ""),
        ("model", replace(model), 4, model),
        ("rows", append(rows, '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'), 3, rows),
    ):
        (tmp_path / name).mkdir()
        done = ended(run_on_two_disks(disk, tmp_path / name, [*words, "carbon.enabled=false"], change, with_run=False), code)
        assert all(f"{place} is not the same on all ranks: on rank 1, " in one.err for one in done) == (code != 0)
        assert done[0].out == "" or code == 0


def test_the_checkpoint_that_a_run_continues_from_is_compared(disk: Path, tmp_path: Path) -> None:
    """Rank 1 reads the manifest of another run in place of that at the path of rank 0, as from a disk that is not shared."""
    words = ["pretrain", str(disk / "tiny.yaml"), "--threads", "1", f"data.train=[{{path: {disk / 'corpus'}}}]", "training.steps=2"]
    for run, seed in (("run", 1), ("other", 2)):
        run_here([*words, f"training.seed={seed}", "--run", str(tmp_path / run)]).exits(0)
    other = Replaced(rank_inputs, "read_manifest", lambda read: lambda folder: read(tmp_path / "other/checkpoints" / folder.name))
    for one in ended(start_ranks(tmp_path, ["resume", str(tmp_path / "run"), "training.steps=4", "--threads", "1"], {1: other}), 4):
        assert "run/checkpoints/step-000002 is not the same on all ranks: on rank 1, " in one.err
