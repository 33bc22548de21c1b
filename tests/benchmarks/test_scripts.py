"""Scripts of benchmarks/: what each computes, makes and draws."""

import gzip
import json
import lzma
import math
import os
import random
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import baselines
import files_before_step
import gpu_report
import make_chat_pairs
import make_sums
import measured_runs
import numpy as np
import preference_folds
import pytest
import reward_against_kl
import scaling
import startup
import torch
from gpu_report import RUNNERS, SHAPES, run_tests, shape_of, tfkit_config
from hypothesis import given
from hypothesis import strategies as st
from make_sums import COPIES, HELD_OUT, RIGHT
from plain_decoder import PlainDecoder, PlainLoop
from preference_folds import split
from reward_against_kl import read, svg, ticks
from run_hashes import CASES, main, recipe
from tiny_files import read_rows, write_rows
from tiny_runs import Process, pretrain, write_corpus, write_recipe

from tfkit.data.columns.rows import Row
from tfkit.families import FAMILIES, PRESETS
from tfkit.model.transformer import on_meta
from tfkit.recipe.reading.validate import section_types, tags
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.optimizer_sections import ScheduleSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.schema.vocabularies import VOCABULARIES


def test_a_tiny_bigram_equals_the_hand_computed_one() -> None:
    """Documents 0 1 2 1 and 0 1 1 over four entries: pairs 01 12 21 01 11, so the followers are 1 2 1 1 1."""
    model = baselines.WittenBell([[0, 1, 2, 1], [0, 1, 1]], vocab_size=4)
    unigram = [(0 + 2 / 4) / 7, (4 + 2 / 4) / 7, (1 + 2 / 4) / 7, (0 + 2 / 4) / 7]
    assert model.unigram.tolist() == pytest.approx(unigram)
    expected = {
        (0, 1): (2 + 1 * unigram[1]) / (2 + 1),
        (0, 3): (0 + 1 * unigram[3]) / (2 + 1),
        (1, 1): (1 + 2 * unigram[1]) / (2 + 2),
        (1, 0): (0 + 2 * unigram[0]) / (2 + 2),
        (2, 1): (1 + 1 * unigram[1]) / (1 + 1),
        (3, 2): unigram[2],  # never seen as a head
    }
    for (head, follower), probability in expected.items():
        assert model.probabilities(np.array([head]), np.array([follower])).item() == pytest.approx(probability)
    assert model.bits([0, 1, 1, 0]) == pytest.approx(-sum(math.log2(expected[pair]) for pair in [(0, 1), (1, 1), (1, 0)]))


@given(st.lists(st.lists(st.integers(0, 10), min_size=2, max_size=20), min_size=1, max_size=5))
def test_every_row_of_the_bigram_sums_to_one_and_nothing_after_the_first_id_costs_nothing(documents: list[list[int]]) -> None:
    model = baselines.WittenBell(documents, 11)
    for head in range(11):
        row = model.probabilities(np.full(11, head), np.arange(11))
        assert ((row > 0).all(), row.sum()) == (True, pytest.approx(1))
    assert model.bits([0]) == 0


def test_primed_sizes_are_those_of_two_whole_streams() -> None:
    draw = random.Random(1)
    words = [bytes(draw.choices(b"abcdefghij", k=6)) for _ in range(200)]
    training = b" ".join(draw.choices(words, k=20_000))
    files = [b" ".join(draw.choices(words, k=300)), b"", bytes(draw.choices(b"0123456789", k=500))]
    alone = len(lzma.compress(training, preset=baselines.XZ_9E))
    expected = [len(lzma.compress(training + file, preset=baselines.XZ_9E)) - alone for file in files]
    assert baselines.primed_xz_sizes(training, files) == expected
    assert expected[0] < baselines.xz_sizes(files)[0]


@pytest.mark.skipif(sys.platform == "win32", reason="posix_spawn")
def test_startup_measures_a_process_and_names_a_failing_one() -> None:
    import resource  # not on Windows

    seconds, peak = startup.measure([sys.executable, "-c", "pass"])
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # a process begins with the peak of the one that spawned it
    assert (0 < seconds < 60, 1 < peak < own + 100) == (True, True)
    assert 0.0 < startup.until_output([sys.executable, "-c", "print(1)"]) < 60.0
    for measure in (startup.measure, startup.until_output):
        with pytest.raises(SystemExit, match="ended with 3"):
            measure([sys.executable, "-c", "raise SystemExit(3)"])


# -- make_sums.py: the rows are right, and no held-out one is in a text or a prompt of the training


def test_the_rows_of_the_sums(tmp_path: Path) -> None:
    make_sums.make(tmp_path)
    text, train, test = (read_rows(tmp_path / f"{name}.jsonl") for name in ("text", "train", "test"))
    answers = {row["prompt"]: row["answer"] for row in (*train, *test)}
    assert all(sum(map(int, prompt.rstrip("=").split("+"))) == int(answer) for prompt, answer in answers.items())
    said = [row["text"].partition("=") for row in text]
    assert {f"{asked}=" for asked, _, _ in said} == {row["prompt"] for row in train}
    assert len(test) == HELD_OUT
    assert {row["prompt"] for row in test}.isdisjoint(row["prompt"] for row in train)
    assert len(text) == COPIES * len(train)
    assert abs(sum(answers[f"{asked}="] == given for asked, _, given in said) / len(said) - RIGHT) < 0.02


# -- make_chat_pairs.py: dialogues become messages; rows that are long, or part before the last answer, are left out

BEGIN = "\n\nHuman: Which is it?\n\nAssistant: Neither.\n\nHuman: Why\nthen?"


def test_short_dialogues_become_messages(tmp_path: Path) -> None:
    too_long = " so" * (make_chat_pairs.LONGEST // 3)
    with gzip.open(tmp_path / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        for ending in ("\n\nAssistant: So: what? ", f"\n\nAssistant:{too_long}", "\n\nAssistant:", " Or\n\nAssistant: So."):
            file.write(json.dumps({"chosen": f"{BEGIN}\n\nAssistant: Because.", "rejected": BEGIN + ending}) + "\n")
    make_chat_pairs.make(tmp_path / "test.jsonl.gz", tmp_path / "pairs")
    [row] = read_rows(tmp_path / "pairs" / "pairs.jsonl")
    asked = [("user", "Which is it?"), ("assistant", "Neither."), ("user", "Why\nthen?")]
    assert row == {
        "prompt": [{"role": role, "content": text} for role, text in asked],
        "chosen": [{"role": "assistant", "content": "Because."}],
        "rejected": [{"role": "assistant", "content": "So: what?"}],
    }


# -- scaling.py: every setup takes its turns, and is compared with the first one in the same round


def test_each_setup_takes_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[scaling.Setup] = []

    class Recorded(scaling.Setup):
        def __init__(self, name: str, steps: int, precision: str):
            self.name, self.steps, self.ended, self.turns = name, steps, False, 0
            started.append(self)

        def turn(self) -> float:
            self.turns += 1
            return {"1": 2.0, "2": 1.0}[self.name[0]] * self.turns

        def end(self) -> None:
            self.ended = True

    monkeypatch.setattr(scaling, "Setup", Recorded)
    found = scaling.compare(3, 1, "fp32")
    assert [one.turns for one in started] == [4] * len(scaling.SETUPS)  # the first is not counted
    assert all(one.ended for one in started)
    assert [found["ratios"][name] for name in scaling.SETUPS] == [[1.0] * 3, [2.0] * 3, [2.0] * 3]


# -- reward_against_kl.py: its figure and its table, of a sweep's folder


def test_a_line_for_each_trial(tmp_path: Path) -> None:
    trials = {"trial-001": {"values": {"objective.beta": 0}}, "trial-002": {"values": {"objective.beta": 0.3}}}
    own = {"schema_version": 1, "run_id": "made", "status": "finished", "attempts": []}
    (tmp_path / "run.json").write_text(json.dumps({**own, "kind": "sweep", "trials": trials}))
    for number, name in enumerate(trials):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({**own, "before": {"reward": -1.0, "gold": 0.4, "kl": 0.0}}))
        scores = [{"reward": 2.0, "gold": 0.9 - number / 10, "kl": 16.0}, {"reward": 3.0 - number, "gold": 0.7, "kl": 36.0}]
        write_rows(folder / "metrics.jsonl", [{"step": step, "evaluation": one} for step, one in enumerate(scores, 1)])
    curves = read(tmp_path, "objective.beta")
    assert [(value, len(scores)) for value, scores in curves.items()] == [("0.3", 3), ("0", 3)]
    drawn = ElementTree.fromstring(svg(curves, "beta"))
    space = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{space}circle")) == 12
    ends = [line.get("points", "").split()[-1] for line in drawn.findall(f"{space}polyline")][:2]
    assert {end.partition(",")[0] for end in ends} == {"352.0"}  # both go as far: the root of 36 is the whole width
    assert reward_against_kl.table(curves, "beta").splitlines()[2:] == [
        "| 0.3 | 2.00 | 0.700 | 36.0 | 0.800 at 2.00, 16.0 |",
        "| 0 | 3.00 | 0.700 | 36.0 | 0.900 at 2.00, 16.0 |",
    ]


def test_ticks_cover_the_range_in_round_numbers() -> None:
    assert ticks(0.4, 0.95) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert ticks(-1.3, 8.3) == [-2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


# -- preference_folds.py: prompts stay whole, means count rows, and the script itself on a tiny model


def test_all_rows_of_a_prompt_are_in_one_fold() -> None:
    rows = [Row(f"{n}", f"rows:{n}", key=f"{n}", input_key=f"prompt {n % 20}") for n in range(60)]
    parts = split([*rows, Row("alone", "rows:61", key="alone")], 3)
    assert sorted(row.place for part in parts for row in part) == sorted([*(row.place for row in rows), "rows:61"])
    prompts = [len({row.input_key for row in part}) for part in parts]
    assert (sum(prompts), all(prompts)) == (21, True)


def test_the_table_has_means_by_rows_and_their_deviation_over_seeds() -> None:
    def fold(rows: int, accuracy: float) -> tuple[int, dict[str, dict[str, float]]]:
        return rows, {"model": {"accuracy": accuracy, "margin": 1.0}, "length": {"accuracy": 0.5}}

    lines = preference_folds.table([[fold(1, 0.6), fold(3, 0.8)], [fold(1, 0.8), fold(3, 0.8)]]).splitlines()
    assert lines[0] == "| | accuracy | margin |"
    assert lines[2:] == ["| model | 0.775 ± 0.035 | 1.000 ± 0.000 |", "| length | 0.500 |  |"]


def test_the_script_judges_a_pair_once_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(tmp_path / "base", write_recipe(tmp_path, write_corpus(tmp_path / "corpus")), "training.steps=2").exits(0)
    rows = [{"prompt": f"the {number} cats", "chosen": " sat", "rejected": " ran away"} for number in range(24)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    sections = "model: {from: base}\ndata: {train: [{path: pairs.jsonl}], validation: 0.2}\nobjective: {kind: reward}"
    rest = "training: {steps: 2, batch_size: 4, precision: fp32}\ncarbon: {enabled: false}"
    (tmp_path / "pairs.yaml").write_text(f"# Pairs.\n{sections}\n{rest}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measured_runs, "new_process", measured_runs.forked_process)
    monkeypatch.setattr(sys, "argv", ["preference_folds.py", "pairs.yaml", "--folds", "2", "--seeds", "1", "training.seed=1"])
    preference_folds.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["model", "length", "bag_of_words"]
    held_out = [Path(f"runs/folds/held-out-{number}.jsonl").read_text().splitlines() for number in (0, 1)]
    assert len({*held_out[0], *held_out[1]}) == 24
    preference_folds.main()  # every run is finished
    assert capsys.readouterr().out.splitlines() == lines


# -- files_before_step.py: the way from the command to the first step of a training is no longer than it was


@pytest.mark.thorough
@pytest.mark.parametrize(("options", "most"), [([], 104), (["--predict"], 110)])
def test_no_more_files_before_the_first_step(options: list[str], most: int) -> None:
    """A new file on the way is a decision: raise the number with the reason, or keep it beside the way."""
    done = subprocess.run([sys.executable, files_before_step.__file__, "--json", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"training/step.py", "engine/training_run/run.py"} <= set(found) or options
    assert len(found) <= most, found


# -- the measurements and the report of `make gpu`


@pytest.mark.parametrize("name", SHAPES)
def test_both_runners_train_a_model_of_the_same_size(name: str) -> None:
    def size(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    shallow = {**SHAPES[name], "layers": 1}
    with torch.device("meta"):
        assert size(PlainDecoder(shallow)) == size(on_meta(tfkit_config(shallow)))
    assert f"{size(on_meta(tfkit_config(SHAPES[name]))) / 1e6:.0f}M" in name


@pytest.mark.parametrize("runner", [name for name, (_, compiled, _) in RUNNERS.items() if not compiled])
@pytest.mark.parametrize("name", SHAPES)
def test_a_row_of_the_table(name: str, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "SECONDS", 0.0)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        found = gpu_report.measure(name, runner, "cpu")
    finally:
        torch.use_deterministic_algorithms(before)
    assert found["tokens_per_second"] > 0
    assert 0 < found["mfu"] < 2
    assert found["losses"][0] == pytest.approx(math.log(shape_of(name, "cpu")["vocab"]), abs=0.3), "random ids, nothing learned yet"


def test_the_plain_loop_learns() -> None:
    loop = PlainLoop(shape_of("Llama 125M", "cpu"), torch.device("cpu"), bf16=False, compiled=False)
    ids = torch.randint(512, (2, 65), generator=torch.Generator().manual_seed(1))
    losses = [loop.step(ids) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.slow  # a program of its own
def test_failures_are_in_the_report_with_their_traceback() -> None:
    head, _, title, *traceback = run_tests("abacus", "bf16_is_asked")
    assert (head[:10], "1 failed" in head, title) == ("1 tests in", True, "### test_bf16_is_asked_of_the_device")
    assert any("device=abacus: not a device" in line for line in traceback)


# -- run_hashes.py: its recipes leave nothing to a default and use everything that there is, and it names a run that differs


NESTED = ("model", "tokenizer", "data")  # a preset with changes; what a kind reads; sources
ONLY_WITH_ANSWERS = {"text_metrics", "bleu_tokenize"}


def kinds(annotation: Any) -> set[str]:
    return {tag for record in section_types(annotation) for tag in tags(record)}


@pytest.mark.parametrize("name", CASES)
def test_every_value_is_written_out(name: str) -> None:
    whole = recipe(name)
    for section, field in Recipe.model_fields.items():
        if section not in NESTED and isinstance(values := whole[section], dict):  # or a list, which is given whole
            record = next(one for one in section_types(field.annotation) if not tags(one) or values["kind"] in tags(one))
            assert {*record.model_fields} - {*values} <= ONLY_WITH_ANSWERS, section


def test_the_cases_use_everything() -> None:
    whole = [recipe(name) for name in CASES]

    def used(section: str, field: str = "kind") -> set[Any]:
        return {values[section].get(field) for values in whole if section in values} - {None}

    sections = Recipe.model_fields
    assert used("objective") == {kind for kind, section in SECTIONS.items() if section.scored_by != "likelihood"}
    assert used("optimizer") == kinds(sections["optimizer"].annotation)
    assert used("schedule") == {*typing.get_args(ScheduleSection.model_fields["kind"].annotation)}
    assert used("tokenizer") == {*VOCABULARIES}
    assert {PRESETS[preset][0].name for preset in used("model", "preset")} == {*FAMILIES}


def test_a_run_that_differs_in_one_thing_is_named_with_it_alone(tmp_path: Path) -> None:
    def program(words: list[str]) -> int:
        os.chdir(tmp_path)
        sys.argv = ["run_hashes.py", *words]
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    def make(out: str, *words: str) -> tuple[int, str]:
        done = Process(tmp_path, [out, "--only", "gpt2", *words], program=program).wait()
        return done.code, done.out.splitlines()[-1]

    assert make("one.json") == (0, "1 runs")
    made = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert all(made["gpt2"][field] for field in ("files", "metrics", "evaluate"))
    made["lora"] = {"exit": 1}
    made["gpt2"]["metrics"][0]["loss"] += 1e-9
    (tmp_path / "changed.json").write_text(json.dumps(made), encoding="utf-8")
    assert make("two.json", "--against", "changed.json") == (1, "gpt2: metrics")
