"""Recipes that are wrong, hostile, random or mutated: all errors with their places, exit 2, at once and in little memory."""

import contextlib
import io
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from random_recipes import FROM_SCHEMA, OVERRIDES, RECIPES, as_yaml, mutated_text, mutated_tree, tidy
from tiny_runs import Process, pretrain, run_here, write_corpus

import tfkit.recipe.reading.read
from tfkit.__main__ import main
from tfkit.recipe import dump_recipe, model_config, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.parse import MAX_BYTES

ATTACKS = Path(__file__).parents[1] / "attacks" / "recipes"
ROOT = Path(__file__).parents[2]
GOOD = "model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 3}\n"

# The messages for each file: line, column, and the beginning of the message. Every line of stderr is here.
SAID = {
    "alias_bomb": ["5:10: more than 20,000 values, counting every use of an alias"],
    "alias_of_itself": ["1:32: *m is inside &m itself"],
    "bom": ["1:1: begins with a byte order mark"],
    "duplicate_keys": ["4:1: training: given twice", "5:18: carbon.pue: given twice", "6:1: model: given twice"],
    "empty": ["1:1: the recipe is empty"],
    "escape": ["1:17: the control character '\\x1b'"],
    "half_a_character": ["1:17: half a character"],
    "huge_numbers": [
        "3:19: training.steps: the number is too large",
        "3:5027: training.seed: the number is too large",
        "3:5027: training.seed: must be a whole number, not null",
        "4:17: optimizer.lr: must be greater than 0, not 0.0",
    ],
    "instantiation": ["1:9: model._target_: unknown", "4:13: optimizer._component_: unknown"],
    "latin1": ["4:7: byte 0xdf is not UTF-8"],
    "list": ["1:1: the recipe is not made of sections"],
    "merge_key": ["3:12: training.<<: unknown"],
    "nested": ["1:33: nested deeper than 32 levels"],
    "nested_blocks": ["33:65: nested deeper than 32 levels"],
    "not_a_number": [
        "1:35: model.init.std: must be a finite number, not nan",
        "2:39: data.train.0.weight: must be a finite number, not inf",
        "3:19: training.steps: must be a whole number, not 1.5",
        "4:17: optimizer.lr: must be a finite number, not nan",
        "4:37: optimizer.weight_decay: must be a finite number, not -inf",
        "4:49: optimizer.eps: must be a finite number, not inf",
    ],
    "not_yaml": ["1:3: the control character '\\x03'"],
    "nul": ["2:7: the control character '\\x00'"],
    "python_object": [
        "1:1: model: must be a section of fields, not a list",
        "1:8: model: the tag !!python/object/apply:os.system: a recipe has no tags",
        "2:1: data.train: missing",
        "2:7: data: the tag !!python/name:os.system: a recipe has no tags",
        "3:19: training.steps: the tag !!int: a recipe has no tags",
        "3:19: training.steps: must be a whole number, not the text '3'",
        "3:36: training.seed: the tag !include: a recipe has no tags",
        "3:36: training.seed: must be a whole number, not the text '/etc/passwd'",
    ],
    "second_document": ["4:1: a second document begins here"],
    "section_as_key": ["1:1: a field is named by a word"],
    "tab": ["2:1: a tab; YAML indents with spaces only"],
    "tab_in_a_list": ["3:1: a tab; YAML indents with spaces only"],
    "unclosed": ["2:1: not YAML: while scanning a quoted scalar"],
    "unknown_keys": [
        "1:23: model.dmi: unknown, did you mean dim",
        "4:1: learning_rate: unknown here; it belongs to optimizer, as lr",
        "5:1: __class__: unknown; the fields here are",
        "6:13: optimizer.n_embd: unknown; the fields here are",
    ],
    "utf16": ["1:1: begins with a byte order mark"],
    "utf16_without_bom": ["1:2: the control character '\\x00'"],
    "word": ["1:1: the recipe is not made of sections"],
    "words_that_were_booleans": [
        "1:17: model.preset: 'no' is not a preset; ",
        "2:25: data.train.0.stdlib: 'on' is none of false, true, docstrings, token_roles, packages",
        "3:31: training.compile: must be true or false, not the text 'off'",
        "4:19: carbon.country: 'no' does not fit",
        "4:32: carbon.enabled: must be true or false, not the text 'y'",
    ],
    "wrong_types": [
        "1:8: model: must be a section of fields, not the text 'gpt2'",
        "2:8: data.train: must be a list, not a section of fields",
        "3:19: training.steps: must be a whole number, not the text '3'; remove the quotes",
        "3:33: training.compile: must be true or false, not the text 'yes'; write true",
        "4:20: optimizer.betas: must be a list, not 0.9",
        "4:29: optimizer.lr: must be a number, not the text 'fast'",
        "5:1: tokenizer: must be a section of fields, not a list",
        "6:1: generation: is empty",
    ],
    "yaml_directive": ["1:1: not YAML: found incompatible YAML document"],
}


def test_f32_every_hostile_recipe_has_its_line() -> None:
    assert {path.stem for path in ATTACKS.iterdir()} == SAID.keys()


@pytest.mark.parametrize("name", SAID)
def test_f32_hostile_recipes(name: str) -> None:
    path = ATTACKS / f"{name}.yaml"
    done = run_here(["check", path]).refuses(2)
    lines = done.err.splitlines()
    assert len(lines) == len(SAID[name]), done.err
    assert all(line.startswith(f"{path}:{said}") for line, said in zip(lines, SAID[name], strict=True)), done.err
    assert not list(ROOT.glob("CANARY*"))


def test_f32_pretrain_says_the_same(tmp_path: Path) -> None:
    """Before anything is made, so that not even the run folder is there."""
    done = pretrain(tmp_path / "run", ATTACKS / "unknown_keys.yaml").refuses(2)
    assert done.err == run_here(["check", ATTACKS / "unknown_keys.yaml"]).err
    assert not (tmp_path / "run").exists()


# The largest files of each kind that are not refused by their size alone: what costs the reader most.
LARGE: dict[str, Callable[[], str]] = {
    "ten megabytes": lambda: "#" * 10_000_000,
    "a tag of a megabyte": lambda: "a: !" + "x" * 999_000 + " 1",
    "an anchor of a megabyte": lambda: "a: &" + "x" * 999_000 + " 1",
    "ten thousand wrong members of a union": lambda: GOOD.replace("train:", "validation: [" + "3, " * 15_000 + "], train:"),
    "a thousand brackets": lambda: "[ " * 400_000,
    "an alias bomb": lambda: (ATTACKS / "alias_bomb.yaml").read_text(encoding="utf-8"),
}
# These take seconds; the others show the same bounds.
COSTLY: dict[str, Callable[[], str]] = {
    "long lines of tags": lambda: "".join(f"b{i}: !{'x' * 90_000} 1\n" for i in range(10)),
    "ten thousand unknown fields": lambda: "".join(f"k{i}: 1\n" for i in range(9_900)),
    "ten thousand unknown fields of the model": lambda: GOOD + "model: {" + ", ".join(f"k{i}: 1" for i in range(9_000)) + "}",
    "ten thousand wrong sources": lambda: GOOD.replace("[{stdlib: true}]", "[" + "{foo: true}, " * 6_000 + "]"),
    "half a million comments": lambda: "#\n" * 499_000,
    "half a million lines of one text": lambda: 'a: "' + "x\n" * 490_000,
    "a key of many lines": lambda: ("? " + "x " * 150_000 + "\n: 1\n") * 3,
    "a thousand braces": lambda: "{ " * 400_000,
}

# A small process that starts tfkit: what a large one forks has its memory counted against it.
LAUNCH = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "tfkit", "check", sys.argv[1]], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, used.ru_maxrss, used.ru_utime)
"""


def launched(recipe: str | Path) -> tuple[int, int, float, str]:
    """`tfkit check` in a fresh process: its code, memory, processor time, and stderr."""
    command = [sys.executable, "-c", LAUNCH, str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
    code, memory, seconds = done.stdout.split()
    return int(code), int(memory), float(seconds), done.stderr


@pytest.fixture(scope="module")
def small_seconds() -> float:
    return launched("smoke")[2]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", [*LARGE, *(pytest.param(name, marks=pytest.mark.slow) for name in COSTLY)])
def test_f32_large_recipes_cost_little(name: str, tmp_path: Path, small_seconds: float) -> None:
    """In a fresh process, whose memory and time are its own: under 200 MB, and a few times the processor time of a small recipe."""
    path = tmp_path / "r.yaml"
    path.write_text((LARGE | COSTLY)[name](), encoding="utf-8")
    code, memory, seconds, err = launched(path)
    assert code == 2, err
    assert err.startswith(f"{path}:")
    assert len(err) < 100_000, "not even the errors are long"
    assert memory < 200 * 1024 * (1 if sys.platform == "linux" else 1024)
    assert seconds < 25 * small_seconds, "a small one takes a fifth of a second"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("folder", "a folder, not a recipe"),
        ("fifo", "a pipe with no data"),
        ("/dev/zero", f"larger than {MAX_BYTES:,} bytes"),
        ("/dev/null", "the recipe is empty"),
        ("missing.yaml", "no such file, and no bundled recipe has this name"),
        ("gtp2-stdlib", "did you mean gpt2-stdlib"),
        ("file/below", "no such file"),
        ("dangling", "no such file"),
        ("loop", "no such file"),
        ("socket", "neither a file nor a pipe"),
        ("", "command line: the argument after check is empty"),
        ("x" * 100_000, "no such file"),
        ("/proc/self/mem", "cannot be read"),
    ],
)
def test_f32_what_is_no_file(place: str, said: str, in_tmp_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfkit.recipe.reading.read, "PIPE_SECONDS", 0.1)
    Path("folder").mkdir()
    os.mkfifo("fifo")
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        done = run_here(["check", place])
    assert done.processor_seconds < 5
    assert len(done.refuses(2, said).err) < 1_000


def test_f32_a_pipe_that_is_written_to_slowly_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "r.yaml"
    os.mkfifo(fifo)
    process = Process(tmp_path, ["check", str(fifo)])
    with fifo.open("wb", buffering=0) as pipe:
        for line in GOOD.splitlines(keepends=True):
            pipe.write(line.encode())
            time.sleep(0.05)
    process.wait().exits(0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("a.b.c=", "a: unknown; the fields here are"),
        ("=x", "'=x' is not key=value"),
        ("==", "'==' is not key=value"),
        ("", "is empty; give it a value, or leave it out"),
        ("model.=1", "is not key=value"),
        ("data.train.-1={stdlib: true}", "data.train.-1: there is no such entry: data.train has only the entry 0"),
        ("data.train.1={stdlib: true}", "data.train.1: there is no such entry"),
        ("data.train.99999999999999999999.path=x", "there is no such entry"),
        ("data.train.x=1", "data.train.x: there is no such entry"),
        ("training.steps=" + "9" * 30, "training.steps: the number is too large"),
        ("training.steps=" + "9" * 90_000, "training.steps: the number is too large"),
        ("training.steps=" + "9" * 120_000, "training.steps: more than 100,000 characters without a space"),
        ("training.steps=1e400", "training.steps: must be a whole number, not inf"),
        ("optimizer.lr=1e400", "optimizer.lr: must be a finite number, not inf"),
        ("optimizer.lr=.nan", "optimizer.lr: must be a finite number, not nan"),
        ("training.steps=!!python/object/apply:os.system [touch CANARY]", "training.steps: the tag !!python/object/apply:os.system"),
        ("training.steps=!!int 3", "training.steps: the tag !!int"),
        ("training.steps=*a", "training.steps: *a: there is no &a before it"),
        ("training.steps=\t3", "training.steps: a tab"),
        ("training.steps=\udcff", "training.steps: the control character '\\udcff'"),
        ("training.steps=3\n---\n4", "training.steps: a second document"),
        ("generation.stop=" + "[" * 5_000, "generation.stop: nested deeper than 32 levels"),
        (".".join("a" * 5_000) + "=1", "more than 32 levels deep"),
        ("model.__class__=x", "model.__class__: unknown"),
        ("data=", "data: is empty"),
        ("output=../../x", "output: unknown"),
    ],
)
def test_f32_overrides(override: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD, encoding="utf-8")
    done = run_here(["check", path, override]).refuses(2, said)
    assert done.err.startswith("command line: ")
    assert len(done.err) < 2_000
    assert not Path("CANARY").exists()


# -- F33


@pytest.fixture
def draws(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--draws"))


def judge(path: Path, content: bytes, overrides: list[str], seen: Counter[int]) -> int:
    """`tfkit check` of this recipe, in this process: 0 or 2, without a traceback, soon, and an error that says where."""
    path.write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    begun = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["check", str(path), "--", *overrides])
    assert time.process_time() - begun < 5
    assert code in (0, 2), err.getvalue()
    assert "Traceback" not in err.getvalue()
    said = err.getvalue().splitlines()
    assert bool(said) == (code == 2)
    assert all(re.match(rf"{re.escape(str(path))}:\d+:\d+: |command line: |and \d+ more", line) for line in said), err.getvalue()
    if all(": no such f" in line for line in said):  # the recipe is good, and files that it names are not there
        code = 0
    seen[code] += 1
    return code


def survives(path: Path, overrides: list[str]) -> None:
    """A valid recipe is written and read back unchanged, with its model in full too."""
    recipe = read_recipe(str(path), parse_overrides(overrides)).recipe
    text = dump_recipe(recipe, None)
    path.write_text(text, encoding="utf-8")
    again = read_recipe(str(path)).recipe
    assert again == recipe
    assert dump_recipe(again, None) == text
    if recipe.model.start is not None:  # the model is described in its checkpoint
        return
    config = model_config(recipe.model, max(recipe.tokenizer.vocab_size, 257))
    path.write_text(dump_recipe(recipe, config), encoding="utf-8")
    whole = read_recipe(str(path)).recipe
    assert model_config(whole.model, config.vocab_size) == config
    assert whole.model_copy(update={"model": recipe.model}) == recipe


def drawn(count: int) -> settings:
    return settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.thorough
def test_f33_random_recipes(draws: int, tmp_path: Path) -> None:
    seen: Counter[int] = Counter()

    @drawn(draws)
    @given(RECIPES, OVERRIDES)
    def draw(recipe: dict[str, Any], overrides: list[str]) -> None:
        if judge(tmp_path / "r.yaml", as_yaml(recipe), overrides, seen) == 0:
            survives(tmp_path / "r.yaml", overrides)

    draw()
    assert seen[0] > draws / 50, "else nothing was learnt about valid recipes"  # about a tenth are; the draws differ each time
    assert seen[2] > draws / 20


def test_f33_mutated_recipes(draws: int, tmp_path: Path) -> None:
    seen: Counter[int] = Counter()
    for seed in range(draws):
        dice = random.Random(seed)
        mutate = mutated_tree if seed % 2 else mutated_text
        try:
            if judge(tmp_path / "r.yaml", content := mutate(dice), [], seen) == 0:
                survives(tmp_path / "r.yaml", [])
        except BaseException as error:
            error.add_note(f"seed {seed}: {content!r}")
            raise
    assert seen[0] > 0
    assert seen[2] > draws / 4


def test_f33_random_recipes_are_trained(draws: int, tmp_path: Path) -> None:
    """A few of the valid ones, in small sizes on a small text: as good as the schema says, or refused with a code that is documented."""
    corpus, seen = write_corpus(tmp_path / "corpus", files=3), Counter[int]()
    count = max(6, draws // 20)

    @drawn(count)
    @given(FROM_SCHEMA.map(tidy))
    def draw(recipe: dict[str, Any]) -> None:
        path = tmp_path / "r.yaml"
        path.write_bytes(as_yaml(recipe | tiny(recipe, corpus)))
        done = pretrain(tmp_path / f"run-{sum(seen.values())}", path)
        assert done.code in (0, 2, 3, 4, 5, 6), (done.code, done.err)
        assert "Traceback" not in done.err, done.err
        assert (done.code == 0) == (done.out != "")
        seen[done.code] += 1

    draw()
    assert seen[0] >= count / 8, seen


def tiny(recipe: dict[str, Any], corpus: Path) -> dict[str, Any]:
    """The sections of a recipe that decide how long it takes, small; and a decoder, which is what the objective trains."""
    model = {name: value for name, value in recipe["model"].items() if name not in ("decoder_layers", "context_length")}
    if not isinstance(head := model.get("head"), dict) or head.get("kind", "lm") != "lm":
        head = {"kind": "lm", "tied": True}
    decoder = {"encoder_layers": 0, "decoder_layers": 1, "head": head}
    return {
        "model": model | decoder | {"dim": 16, "num_heads": 2, "hidden_dim": 32, "context_length": 8},
        "tokenizer": {"vocab_size": 270, "add_bos": recipe.get("tokenizer", {}).get("add_bos", True)},
        "data": recipe["data"] | {"train": [{"path": str(corpus)}], "validation": [{"path": str(corpus)}]},
        "training": recipe["training"] | {"steps": 2, "compile": False, "tensorboard": False},
        "schedule": recipe.get("schedule", {}) | {"warmup_steps": 1, "warmup_tokens": None},
        "generation": recipe.get("generation", {}) | {"max_new_tokens": 2},
        "carbon": {"enabled": False},
    }
