"""tfkit.predict, and what a loaded model does: the predictions of the command, vectors as transformers' hidden states give them."""

import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
import torch
from library_calls import Recorder, call
from tiny_files import receipt, write_rows
from tiny_runs import run_tfkit
from transformers import AutoModel, AutoTokenizer

import tfkit
from tfkit.engine.listener import Silent
from tfkit.engine.tools.verification import verify_path
from tfkit.errors import DataError, ModelError, UsageError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
CLASSES = FIXTURES / "classes"
ROWS = [
    {"id": number, "text": text} for number, text in enumerate(["the cat sat on a mat", "a dog", "fast " * 20, "hat", "the dog ran"] * 8)
]
UNMETERED = {"carbon.enabled": False}


def test_the_library_and_the_command_say_the_same(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    command = ["predict", "--from", str(CLASSES), "--data", str(tmp_path / "rows.jsonl"), "--all", "--threads", "1"]
    expected = [json.loads(line) for line in run_tfkit(tmp_path, command).out.splitlines()]
    assert [one["id"] for one in expected] == [*range(40)]
    assert call(tmp_path, lambda: [*tfkit.predict(ROWS, UNMETERED, start=CLASSES, all_labels=True, threads=1)]) == expected
    loaded = tfkit.load(CLASSES)
    mine = loaded.predict(ROWS, all_labels=True)
    assert [one["prediction"] for one in mine] == [one["prediction"] for one in expected]
    assert [one["probability"] for one in mine] == pytest.approx([one["probability"] for one in expected], rel=1e-5)
    [alone] = loaded.predict("the cat sat on a mat")
    assert (alone["text"], alone["probability"]) == (ROWS[0]["text"], pytest.approx(mine[0]["probability"], rel=1e-5))
    [row] = loaded.predict({"body": "a dog", "text": "hat"}, columns={"text": "body"})
    likely = pytest.approx(mine[1]["probability"], rel=1e-5)
    assert row == {"body": "a dog", "text": "hat", "prediction": mine[1]["prediction"], "probability": likely}
    with torch.no_grad():
        loaded.model.head.classes.bias[2] += 99.0  # the model as it is now, not as it was saved
    assert {one["prediction"] for one in loaded.predict(ROWS)} == {"none"}


def test_rows_are_read_as_they_are_needed(tmp_path: Path) -> None:
    taken = []

    def rows() -> Iterator[dict[str, Any]]:
        for row in ROWS * 100:
            taken.append(row)
            yield row

    threads, recorder = torch.get_num_threads(), Recorder()
    found = tfkit.predict(rows(), UNMETERED, start=CLASSES, listener=recorder, threads=1, run=tmp_path / "run")
    assert not taken
    assert next(found)["id"] == 0
    assert len(taken) == 16  # a batch
    assert torch.get_num_threads() == threads
    found.close()
    assert receipt(tmp_path / "run")["status"] == "stopped", "a caller that wants no more rows"
    [*_] = tfkit.predict([row | {"prediction": 3} for row in ROWS], UNMETERED, start=CLASSES, listener=recorder, run=tmp_path / "whole")
    [warning] = [event for event in recorder.events if event[0] == "warn" and "context" in event[1]]
    assert "8 of 40 rows are longer than the model's context of 16 tokens, and were not read to their ends (first row 3)" in warning[1]
    assert ["warn", "the rows have the fields prediction already, which are replaced"] in recorder.events
    assert receipt(tmp_path / "whole")["result"]["rows"] == 40


def test_an_iterator_of_rows_may_draw_random_numbers() -> None:
    """Each row is drawn anew, although a call gives the random state back."""

    def rows() -> Iterator[dict[str, Any]]:
        for _ in range(100):  # of several windows
            yield {"text": "hat", "drawn": torch.rand(()).item()}

    for predict in (lambda: tfkit.predict(rows(), UNMETERED, start=CLASSES), lambda: tfkit.load(CLASSES).predict(rows())):
        drawn = [row["drawn"] for row in predict()]
        assert len({*drawn, torch.rand(()).item()}) == 101


def test_what_is_no_row() -> None:
    loaded = tfkit.load(CLASSES)
    with pytest.raises(DataError, match=r"row 2: no column 'text'.*columns=\{'text': 'NAME'\}"):
        loaded.predict([{"text": "hat"}, {"other": "hat"}])
    first, second = loaded.predict([{"text": "hat"}, {"other": "hat"}], {"data.on_bad_row": "skip"})
    assert (first["prediction"] is None, second["prediction"], second["other"]) == (False, None, "hat")
    drawn = {"data.rows": 2}
    for message, act in (
        ("row 1: a row is a dict or a text, and this is of type int", lambda: loaded.predict([3])),
        ("predict takes rows, and this is of type NoneType", lambda: loaded.predict(None)),
        ("causal_lm gives no answer to a row", lambda: tfkit.predict(ROWS, start=FIXTURES / "finished")),
        ("all rows of a call are answered, and none are drawn", lambda: loaded.predict(ROWS, drawn)),
        ("all rows of a call are answered, and none are drawn", lambda: next(tfkit.predict(ROWS, drawn | UNMETERED, start=CLASSES))),
        ("embed takes texts, and this is of type DataFrame; give a list", lambda: loaded.embed(pandas.DataFrame())),
        ("predict takes rows, and this is of type DataFrame; give a list", lambda: loaded.predict(pandas.DataFrame({"text": ["hat"]}))),
        ("text 2: is of type int; give a text", lambda: loaded.embed(["hat", 3])),
    ):
        with pytest.raises(UsageError, match=message):
            act()
    with pytest.raises(DataError, match="text 2: holds half a surrogate pair at character 1; repair it"):
        loaded.embed(["hat", "a\ud800"])
    with pytest.raises(ModelError, match="gives the class of a text"):
        loaded.generate("the cat")


def test_fields_may_be_named_by_numbers() -> None:
    """As are the columns of a table that pandas reads without a header."""
    loaded, table = tfkit.load(CLASSES), pandas.DataFrame([["hat", 1], ["the cat", 2]])
    found = loaded.predict(table.to_dict("records"), columns={"text": "0"})
    assert [(row["0"], row["1"], row["prediction"]) for row in found] == [
        (text, number, one["prediction"]) for number, (text, one) in enumerate(zip(table[0], loaded.predict(table[0]), strict=True), 1)
    ]


def test_a_table_is_refused_and_a_series_or_a_data_set_is_read_row_by_row() -> None:
    loaded, texts = tfkit.load(CLASSES), ["hat", "the cat"]
    table, expected = pandas.DataFrame({"text": texts}), loaded.predict(texts)
    assert loaded.predict(table["text"]) == loaded.predict(datasets.Dataset.from_pandas(table)) == expected
    assert torch.equal(loaded.embed(table["text"]), loaded.embed(texts))
    language_model = tfkit.load(FIXTURES / "finished")
    with pytest.raises(UsageError, match="generate takes prompts, and this is of type DataFrame; give a list of texts"):
        language_model.generate(table)
    settings = {"generation.max_new_tokens": 2}
    rows: Any = [{"prompt": text} for text in texts]
    assert language_model.generate(rows, settings) == language_model.generate(texts, settings)


def test_a_model_is_saved_over_no_run_and_no_checkpoint(tmp_path: Path) -> None:
    """Saved over the checkpoint that it was loaded from, its files no longer had the hashes of the manifest, and the run had none left."""
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "finished", run)
    loaded = tfkit.load(run)
    for folder in (loaded.folder, run, run / "model", run / "checkpoints" / "model"):
        with pytest.raises(UsageError, match=r"lies in .*, a run folder or a model folder|holds a run.json, so it is a run"):
            loaded.save(folder)
    assert tfkit.load(run).folder == loaded.folder
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, and a model is a folder"):
        loaded.save(tmp_path / "file")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    loaded.save(tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    manifest["files"]["chat_template.jinja"] = {"size": 4, "sha256": "0" * 64}  # as if an earlier model had been saved there
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "model" / "chat_template.jinja").write_text("mine")
    loaded.save(tmp_path / "model")  # it may replace what it has saved
    assert tfkit.load(tmp_path / "model").config == loaded.config
    [verdict] = verify_path(tmp_path / "model", Silent()).verdicts
    assert (verdict.verdict, verdict.extra) == ("good", ["notes.txt"])
    copied = tmp_path / "copied"
    shutil.copytree(loaded.folder, copied)
    with pytest.raises(UsageError, match=r"holds a manifest.json, so it is a run or a checkpoint"):
        loaded.save(copied)


def test_a_loaded_model_writes_as_generate_does() -> None:
    settings = {"generation.max_new_tokens": 5, "generation.temperature": 0}
    prompts = ["the cat", "a dog", "hat"] * 7
    loaded = tfkit.load(FIXTURES / "finished")
    wanted = tfkit.generate(prompts, {**settings, **UNMETERED}, start=FIXTURES / "finished")
    assert loaded.generate(prompts, settings) == wanted
    assert loaded.generate("the cat", settings) == wanted[:1]


@pytest.mark.parametrize("name", ["classes", "finished", "translation"])
def test_vectors_are_the_mean_of_transformers_last_hidden_states(name: str) -> None:
    """Of an encoder, a decoder, and the encoder of an encoder-decoder; special tokens are among the tokens, padding is not."""
    loaded = tfkit.load(FIXTURES / name)
    texts = ["the cat sat on a mat", "hat", "a dog ran fast " * 9]
    found = loaded.embed(texts)
    assert (found.shape, found.dtype, loaded.model.training) == ((3, loaded.config.dim), torch.float32, False)
    length = loaded.config.context_length
    theirs, codec = AutoModel.from_pretrained(loaded.folder).eval(), AutoTokenizer.from_pretrained(loaded.folder)
    for text, vector in zip(texts, found, strict=True):
        ids = codec(text, truncation=True, max_length=length, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = (theirs.get_encoder()(ids) if loaded.model.encoder and loaded.model.decoder else theirs(ids)).last_hidden_state
        torch.testing.assert_close(vector, hidden[0].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loaded.embed("hat"), found[1:2], atol=1e-6, rtol=1e-5)
    assert loaded.embed([]).shape == (0, loaded.config.dim)


def test_the_help_of_load_has_an_example() -> None:
    text = inspect.getdoc(tfkit.load)
    for name in ("predict", "generate", "embed", "save"):
        assert f"loaded.{name}(" in text
        assert inspect.getdoc(getattr(type(tfkit.load(CLASSES)), name))
