"""tfkit evaluate on a tiny checkpoint: in this process where only the result matters, as a program where the process does."""

import gzip
import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import fake_codecarbon
import pytest
from tiny_files import read_rows, receipt, write_rows
from tiny_layouts import GPT2_LAYOUT, TINY_GPT2
from tiny_runs import Done, Program, run_here

from tfkit.carbon import Meter
from tfkit.engine.request.evaluation_settings import read_settings
from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.run.checkpoints import save_checkpoint
from tfkit.tokenizer import train_byte_bpe

TEXTS = ["the cat sat on the mat", "das Mädchen aß 🙂", "a cat and a hat and a mat " * 20]
NO_CARBON = "carbon.enabled=false"
RECIPE = """
model: {preset: gpt2, decoder_layers: 2, dim: 24, num_heads: 3, context_length: 48}
tokenizer: {vocab_size: 300}
data: {train: [{path: PATH}], validation: VALIDATION}
training: {steps: 1}
evaluation: {batch_size: 3}
"""


def write_checkpoint(folder: Path, *, tokenizer: bool = True) -> Path:
    """A model folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = train_byte_bpe(TEXTS, 300, add_bos=True)
    config = TINY_GPT2 | {"vocab_size": trained.size, "context_length": 48}
    model = build(ModelConfig.model_validate(config), seed=3)
    save_model(folder, model.config, model.state_dict(), trained if tokenizer else None)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    rows = [{"text": text, "body": text[:9]} for text in ["", *TEXTS]]
    return write_rows(tmp_path_factory.mktemp("data") / "texts.jsonl", rows)


def run(*arguments: object) -> Done:
    return run_here(["evaluate", *arguments, NO_CARBON])


def metrics(*arguments: object) -> dict[str, float]:
    return run(*arguments, "--json").exits(0).document["metrics"]


def test_the_document_or_the_table_and_nothing_else_on_stdout(folder, data):
    document = run("--from", folder, "--data", data, "--json", "evaluation.batch_size=2").exits(0).document
    said = {"schema_version": 1, "examples": 3, "batch_size": 2, "checkpoint": str(folder)}
    unmeasured = dict.fromkeys(("energy_kwh", "energy_kwh_parts", "emissions_g", "place"))  # None, which is not 0
    assert document.items() >= (said | unmeasured).items()
    assert document.keys() - said.keys() - unmeasured.keys() == {
        *("metrics", "baselines", "beats_baseline", "best_baseline", "intervals", "bootstrap", "tokens", "gates"),
        *("trained_on", "data", "precision", "context_length", "sequence_length", "carbon_status"),
    }
    assert document["data"][0]["name"].endswith("texts.jsonl")
    assert document["tokens"] == document["metrics"]["target_tokens"] + 3
    assert document["metrics"]["perplexity"] == pytest.approx(math.exp(document["metrics"]["loss"]))
    lines = run("--from", folder, "--data", data).exits(0).out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["loss", "perplexity", "bits per byte", "scored", "data", "checkpoint"]
    assert lines[3].endswith(" tokens of 3 texts, in pieces of at most 48")


def test_predictions_add_up_to_the_result(folder, data, tmp_path):
    found = metrics("--from", folder, "--data", data, "--predictions", tmp_path / "predictions.jsonl")
    rows = read_rows(tmp_path / "predictions.jsonl")
    wanted = [(f"{data}:{line}", len(text.encode())) for line, text in enumerate(TEXTS, 2)]
    assert [(row["place"], row["bytes"]) for row in rows] == wanted
    assert sum(row["tokens"] for row in rows) == found["target_tokens"]
    assert sum(row["loss"] * row["tokens"] for row in rows) / found["target_tokens"] == pytest.approx(found["loss"])


def test_several_sets_have_their_own_scores(folder, data):
    sets = f"data.validation=[{{path: {data}, name: dev-2}}, {{path: {data}}}]"
    found = metrics("--from", folder, sets)
    one = metrics("--from", folder, "--data", data)
    assert found["dev-2.loss"] == found["2.loss"] == pytest.approx(one["loss"])
    assert found["target_tokens"] == 2 * found["dev-2.target_tokens"]
    run("--from", folder, sets, "--fail-if", "dev-2.loss > 0").exits(8)
    run("--from", folder, sets, "--fail-if", "1.loss > 0").refuses(2)


def test_settings_that_change_the_result(folder, data):
    start = ["--from", folder, "--data", data]
    whole = metrics(*start)
    assert metrics(*start, "evaluation.batch_size=1")["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    for fewer in ("evaluation.max_tokens=30", "data.validation.0.text=body"):
        assert metrics(*start, fewer)["target_tokens"] < whole["target_tokens"]
    rounded = metrics(*start, "evaluation.precision=bfloat16")["loss"]
    assert rounded != whole["loss"]
    assert rounded == pytest.approx(whole["loss"], rel=0.05)


def write_recipe(path: Path, data: Path, validation: str) -> Path:
    path.write_text(RECIPE.replace("PATH", json.dumps(str(data))).replace("VALIDATION", validation), encoding="utf-8")
    return path


def save_run(folder: Path) -> Path:
    """Save a checkpoint of a run, and return it."""
    return save_checkpoint(folder / "checkpoints", 5, lambda path: write_checkpoint(path) and None)


def test_where_the_texts_come_from(folder, data, tmp_path):
    """--data, else the recipe, else the recipe of the run that holds the checkpoint."""
    expected = metrics("--from", folder, "--data", data)
    source = f"[{{path: {json.dumps(str(data))}}}]"
    recipe = write_recipe(tmp_path / "recipe.yaml", data, source)
    assert metrics(recipe, "--from", folder) == pytest.approx(expected)
    assert metrics("--from", folder, f"data.validation={source}") == pytest.approx(expected)
    fraction = write_recipe(tmp_path / "fraction.yaml", data, "0.7")
    assert 0 < metrics(fraction, "--from", folder)["target_tokens"] < expected["target_tokens"]
    (tmp_path / "other.txt").write_text("the mat", encoding="utf-8")
    assert metrics(recipe, "--from", folder, "--data", tmp_path / "other.txt")["target_tokens"] < expected["target_tokens"]

    run_folder = tmp_path / "run"
    checkpoint = save_run(run_folder)
    write_recipe(run_folder / "recipe.yaml", data, source)
    for place in (run_folder, checkpoint):
        document = run("--from", place, "--json").exits(0).document
        assert document["metrics"] == pytest.approx(expected)
        assert (document["batch_size"], document["checkpoint"]) == (3, str(checkpoint))  # the run's own setting
    assert metrics("--from", run_folder, f"data={{validation: {source}}}") == pytest.approx(expected)
    for given in (["--data", data, "data={sequence_length: 8}"], [f"data={{validation: {source}, sequence_length: 8}}"]):
        assert run("--from", run_folder, "--json", *given).exits(0).document["sequence_length"] == 8


def test_each_gate_is_in_the_result(folder, data):
    words = [word for gate in ("loss < 0", "bits_per_byte >= 0.1") for word in ("--fail-if", gate)]
    document = run("--from", folder, "--data", data, *words, "--json").exits(8).document
    found = [(one["metric"], one["value"], one["failed"]) for one in document["gates"]]
    assert found == [(name, document["metrics"][name], failed) for name, failed in (("loss", False), ("bits_per_byte", True))]


def test_errors(folder):
    for arguments, code, message in (
        ([], 2, "there are no texts to score: give them as --data F, or a recipe"),
        (["evaluation.batch_sise=3"], 2, "did you mean batch_size"),
        (["nowhere.yaml"], 2, "nowhere.yaml: no such file"),
        (["--predictions", "p.CoNLL"], 2, "--predictions p.CoNLL: nothing is written in the format .conll, only JSON lines"),
        (["--predictions", "p.csv"], 2, "tfkit predict --out"),
        (["--predictions", "."], 5, ".: is a folder; --predictions takes the name of a file"),
        (["--predictions", "p" * 300], 5, "cannot be written (File name too long); give another place for --predictions"),
        (["data={train: [{path: a}], validation: [{path: b}]}"], 2, "causal_lm is evaluated without rows of data.train"),
        (["data.validation=[{path: a, name: dev}, {path: b, name: dev}]"], 2, "two sets have the name 'dev'"),
        (['data.validation=[{path: a, name: "2"}, {path: b}]'], 2, "two sets have the name '2'"),
        (["carbon.country=XXX"], 2, "XXX"),
        (["carbon.budget_g=1"], 2, "carbon.budget_g: only a training has a budget"),
        (["carbon={budget_seconds: 1}"], 2, "carbon.budget_seconds: only a training has a budget"),
        (["--device", "abacus"], 2, "--device abacus: not a device"),
    ):
        run("--from", folder, *(["--data", __file__, *arguments] if arguments else [])).refuses(code, message)


def test_errors_of_the_checkpoint(tmp_path, data):
    bare = write_checkpoint(tmp_path / "bare", tokenizer=False)
    run("--from", bare, "--data", data).exits(4, "no tokenizer.json here", "put that of the model there")
    (bare / "source.spm").touch()
    run("--from", bare, "--data", data).exits(4, "a pair of SentencePiece models, source.spm and target.spm, is not read")


def test_with_run_the_result_and_the_energy_stay(folder, data, tmp_path, monkeypatch):
    """Each evaluation reports its own energy; the totals are those of all in the folder. The power is made up."""
    monkeypatch.setattr(Meter.stop, "__defaults__", (fake_codecarbon.PATIENCE_SECONDS,))
    monkeypatch.syspath_prepend(fake_codecarbon.write(tmp_path / "fake"))
    kept = tmp_path / "kept"
    words = ["evaluate", "--from", folder, "--data", data, "--run", kept, "--threads", "1", "--json"]
    first, second = (run_here(words).exits(0).document for _ in range(2))
    known = receipt(kept)
    assert (known["status"], known["threads"], len(known["attempts"])) == ("finished", 1, 2)
    assert (known["result"]["metrics"], known["data"]) == (second["metrics"], second["data"])
    assert "country_iso_code" in (kept / "emissions.csv").read_text()
    energy, totals = [first["energy_kwh"], second["energy_kwh"]], known["totals"]
    assert min(*energy, totals["seconds"]) > 0
    assert sum(energy) <= totals["energy_kwh"] * (1 + 1e-9), "the second has not the first one's, too"
    unmetered = run_here([*words, NO_CARBON]).exits(0).document
    assert unmetered["energy_kwh"] is unmetered["energy_kwh_parts"] is None
    after = receipt(kept)["totals"]
    assert (after["energy_kwh"], after["carbon_status"]) == (pytest.approx(totals["energy_kwh"]), "degraded")
    assert after["seconds"] > totals["seconds"], "wall time counts without a meter, too"


def scoring(folder: Path, data: Path) -> list[object]:
    """The words of a program, to which the place of the predictions is added."""
    return ["evaluate", "--from", folder, "--data", data, NO_CARBON, "--threads", "1", "--predictions"]


def test_a_gate_is_judged_where_nobody_reads_the_result(folder, data, tmp_path):
    words = [*scoring(folder, data), tmp_path / "p.jsonl"]
    for gate, code in (("loss > 0", 8), ("loss < 0", 0)):
        with Program([*words, "--fail-if", gate], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
            program.stdout.close()
            err = program.stderr.read()
            assert (program.wait(), "quality gate failed" in err) == (code, code == 8), err
        assert len((tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_predictions_into_a_lost_link_are_refused_before_anything_is_scored(folder, data, tmp_path):
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere" / "there")
    run("--from", folder, "--data", data, "--predictions", tmp_path / "lost").refuses(5, "there is no such folder")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_that_nobody_reads_can_be_left(folder, data, tmp_path, number):
    os.mkfifo(tmp_path / "pipe")
    with Program([*scoring(folder, data), tmp_path / "pipe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        while "checkpoint" not in program.stdout.readline():  # the result's last line
            assert program.poll() is None
        time.sleep(0.5)
        program.send_signal(number)
        _, err = program.communicate(timeout=300)
    assert (program.returncode, "the predictions are not all written" in err) == (128 + number, True), err


def test_the_columns_of_a_table_without_a_header_are_those_of_the_training(tmp_path):
    """Of a table, compressed or not, and not of JSON lines, which name their own."""
    checkpoint = save_run(tmp_path / "run")
    source = "{path: train.csv.gz, header: [text]}"
    recipe = RECIPE.replace("{path: PATH}", source).replace("VALIDATION", "null").replace("evaluation: {batch_size: 3}", "")
    (tmp_path / "run" / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for name, header in (("a.csv.gz", ["text"]), ("a.csv", ["text"]), ("a.jsonl.gz", None)):
        settings = read_settings(None, checkpoint, {}, ["data"], name)
        assert settings.data is not None
        assert [one.header for one in settings.data.validation] == [header]


def test_an_override_of_the_sets_wins_over_data(folder, data, tmp_path):
    """The last word counts, whatever it is; and a set that is named in it is read as it says itself."""
    recipe = write_recipe(tmp_path / "r.yaml", data, "0.1")
    words = [recipe, "--from", folder, "--data", "nowhere.jsonl"]
    held_out = metrics(*words, "data.validation=0.6")
    assert held_out == metrics(recipe, "--from", folder, "data.validation=0.6") == metrics(*words, "data={validation: 0.6}")
    for nothing in ("null", "[]"):
        run(*words, f"data.validation={nothing}").exits(2, "there are no texts to score")


def test_skipped_rows_are_reported_even_if_a_later_set_cannot_be_read(folder, tmp_path):
    first, second = write_rows(tmp_path / "a.jsonl", [{"text": "the cat"}, {}]), tmp_path / "b.jsonl.gz"
    rows = [json.dumps({"text": random.Random(number).randbytes(50).hex()}) for number in range(1_500)]
    second.write_bytes(gzip.compress("\n".join(rows).encode())[:-9000])
    words = [f"data.validation=[{{path: {first}}}, {{path: {second}}}]", "data.on_bad_row=skip"]
    run("--from", folder, *words).exits(3, "a.jsonl: 1 bad row skipped", "b.jsonl.gz")


@pytest.mark.filterwarnings("always")
def test_a_checkpoint_that_is_not_whole_is_passed_over_aloud(folder, data, tmp_path):
    for step in (2, 4):
        save_checkpoint(tmp_path / "run" / "checkpoints", step, lambda place: shutil.copytree(folder, place, dirs_exist_ok=True))
    weights = tmp_path / "run" / "checkpoints" / "step-000004" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    done = run("--from", tmp_path / "run", "--data", data).exits(0)
    assert "its newest checkpoint, step-000004, is not complete; step-000002 is used" in done.err
    assert "step-000002" in done.out


def test_a_model_of_another_kind_is_refused(tmp_path, data):
    trained = train_byte_bpe(TEXTS, 300, add_bos=False)
    sizes = {"vocab_size": trained.size, "context_length": 16, "dim": 8, "num_heads": 2}
    for stack, head in (("encoder", {"kind": "masked_lm", "tied": True}), ("decoder", {"kind": "spans"})):
        config = GPT2_LAYOUT | sizes | {f"{stack}_layers": 1, "head": head}
        model = build(ModelConfig.model_validate(config), seed=1)
        (tmp_path / stack).mkdir()
        save_model(tmp_path / stack, model.config, model.state_dict(), trained)
    for words, said in (
        (["encoder"], "this model fills the masks of a text, so its task is not known; fine-tune it"),
        (["encoder", "objective.kind=causal_lm"], "is not a language model, so a text alone has no score"),
        (["decoder"], "the objective question_answering trains encoders; this model has a decoder alone: choose"),
    ):
        run("--from", tmp_path / words[0], "--data", data, *words[1:]).exits(4, said)
