"""tfkit embed: the vectors of loaded.embed for the rows of files and pipes, in their order; what is written where, and what is refused."""

import datetime
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from answer_runs import KINDS
from tiny_files import parse_rows, read_rows, receipt, write_rows
from tiny_runs import Done, run_here, run_piped

import tfkit
from tfkit.model.answering_linear import has_int8

pytestmark = pytest.mark.usefixtures("in_tmp_path")

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
MODELS = ["classes", "finished", "translation"]  # an encoder, a decoder, an encoder-decoder
TEXTS = [" ".join(["the", "cat", "sat", "on", "a", "mat"][: 1 + number % 6]) + (" and ran" * (number % 4)) for number in range(75)]
ROWS = [{"id": number, "text": text, "note": None} for number, text in enumerate(TEXTS)]
NO_CARBON = "carbon.enabled=false"
QUANTIZED = [("int8", "int8")] if has_int8(torch.device("cpu")) else []


def embed(*words: object, model: object = FIXTURES / "classes") -> Done:
    return run_here(["embed", "--from", model, *words, NO_CARBON, "--threads", "1"])


def piped(stdin: bytes, *words: str) -> Done:
    return run_piped(["embed", "--from", FIXTURES / "classes", "--data", "-", *words, NO_CARBON, "--threads", "1"], stdin)


def printed(done: Done) -> Any:
    return np.array([line["embedding"] for line in parse_rows(done.exits(0).out)], np.float32)


def assert_of(texts: list[str], vectors: Any, model: Path = FIXTURES / "classes", rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(vectors, tfkit.load(model).embed(texts).numpy(), atol=2e-6, rtol=rtol)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", MODELS)
def test_each_form_has_the_vectors_of_a_loaded_model_in_the_order_of_the_rows(name: str) -> None:
    """In several windows, whose rows are sorted by length."""
    start = ["--data", write_rows(Path("rows.jsonl"), ROWS), "evaluation.batch_size=4"]
    done = embed(*start, "--out", "v.npy", "--json", model=FIXTURES / name).exits(0)
    vectors = np.load("v.npy")
    assert_of(TEXTS, vectors, FIXTURES / name)
    assert vectors.dtype == np.float32
    document = done.document
    written = {"out": "v.npy", "rows": 75, "bad_rows": 0, "dim": vectors.shape[1], "batch_size": 4, "precision": "float32"}
    assert document.items() >= written.items()
    assert document["tokens"] > 75
    assert {"checkpoint", "energy_kwh", "energy_kwh_parts", "emissions_g", "carbon_status", "place"} < document.keys()
    done = embed(*start, "--out", "v.PARQUET", model=FIXTURES / name).exits(0)
    lines = ["embeddings", "rows", "dim", *(["truncated"] if document["truncated"] else []), "checkpoint"]
    assert [line.split("  ")[0] for line in done.out.splitlines()] == lines
    table = pyarrow.parquet.read_table("v.PARQUET")
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), vectors.shape[1])
    assert table.drop_columns("embedding").to_pylist() == ROWS
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy(zero_copy_only=False)), vectors)
    done = embed(*start, model=FIXTURES / name)
    np.testing.assert_array_equal(printed(done), vectors)  # the digits are enough
    assert [{key: value for key, value in line.items() if key != "embedding"} for line in parse_rows(done.out)] == ROWS


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", KINDS)
def test_the_text_is_in_the_column_that_the_model_was_trained_on(answers: Path, name: str) -> None:
    """Else in `text`."""
    texts = [row["first" if name == "spans" else "text"] for row in read_rows(answers / "test.jsonl")]
    assert_of(texts, printed(embed("--data", answers / "test.jsonl", model=answers / name)), answers / name)


def test_another_column_is_named_a_template_or_without_a_name_a_number(answers: Path) -> None:
    for field, template in (("third", "{third}"), ("{first}: {other}", "{first}: {other}")):
        texts = [template.format(**row) for row in read_rows(answers / "test.jsonl")]
        assert_of(texts, printed(embed("--data", answers / "test.jsonl", "--field", field, model=answers / "spans")), answers / "spans")
    Path("bare.csv").write_text("".join(f"{number};{text};x\n" for number, text in enumerate(TEXTS)), encoding="utf-8")
    assert_of(TEXTS, printed(embed("--data", "bare.csv", "--field", "1")))


def test_all_files_of_a_folder_are_read() -> None:
    """Also those that are called train; a .txt file is one text, unless its lines are."""
    Path("texts").mkdir()
    for name in ("test", "train", "valid"):
        write_rows(Path(f"texts/{name}.jsonl"), [{"text": f"the {name} cat"}])
    Path("two.txt").write_text("the cat\na dog\n", encoding="utf-8")
    for words, texts in (
        (["texts"], ["the test cat", "the train cat", "the valid cat"]),
        (["texts", "data={sequence_length: 8}"], ["the test cat", "the train cat", "the valid cat"]),
        (["two.txt"], ["the cat\na dog\n"]),
        (["two.txt", "data.validation.0.format=lines"], ["the cat", "a dog"]),
    ):
        assert [line["text"] for line in parse_rows(embed("--data", *words).out)] == texts


def test_a_pipe_may_have_a_text_a_line() -> None:
    """But a header that lacks the field is no text."""
    piped(b"the cat\n\na dog\n", "--out", "v.npy").exits(0)
    assert_of(["the cat", "a dog"], np.load("v.npy"))
    piped(b"id,body\n3,the cat\n", "--field", "bodi").refuses(3, "stdin:1: no column 'bodi'", "with --field NAME")


def test_what_is_wrong_with_the_command() -> None:
    rows = write_rows(Path("rows.jsonl"), ROWS[:3])
    os.mkfifo("pipe.npy")
    Path("folder.npy").mkdir()
    for words, code, message in [
        (["hello"], 2, "embed does not know 'hello': give texts as --data F"),
        (["generation.top_k=3"], 2, "this command reads only the sections data, evaluation, carbon"),
        (["--out", "pipe.npy"], 2, "--out pipe.npy: is a device or a pipe"),
        (["--out", "folder.npy"], 5, "folder.npy: is a folder"),
        (["--out", "nowhere/v.npy"], 5, "the folder nowhere does not exist"),
        (["--out", "v.npy", "data.on_bad_row=skip"], 2, "a row without a vector has no place in the file of --out"),
        (["--precision", "int4"], 2, "int4"),
        (["--data", "-", "--ranks", "2"], 2, "rows from stdin are answered by one process"),
        (["--data", "-", "--rows", "2"], 2, "rows from stdin are answered as they arrive, and none are drawn"),
    ]:
        embed("--data", rows, *words).refuses(code, message)
    for out in ("v.jsonl", "v", "v.npy.gz", ".npy"):  # before anything is looked for
        embed("--data", "nowhere", "--out", out, model="nowhere").exits(2, "vectors are written to F.npy or F.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), "rows.parquet")
    before = Path("rows.parquet").read_bytes()
    embed("--data", "rows.parquet", "--out", "rows.parquet").exits(2)
    assert Path("rows.parquet").read_bytes() == before
    assert {path.name for path in Path().iterdir()} == {"folder.npy", "pipe.npy", "rows.jsonl", "rows.parquet"}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("out", [None, "v.npy", "v.parquet"])
def test_a_row_without_a_vector_is_an_error_with_its_place(out: str | None) -> None:
    """After the lines before it; a file is complete, or stays what it was. With data.on_bad_row=skip there are lines alone."""
    words = [] if out is None else ["--out", out]
    Path("v.npy").write_text("old", encoding="utf-8")
    for bad, message in [({"id": 60, "body": "the cat"}, "no column 'text'"), ({"id": 60, "text": ""}, "the text gives no token")]:
        rows = write_rows(Path("rows.jsonl"), [*ROWS[:60], bad, *ROWS[60:]])
        done = embed("--data", rows, *words, model=FIXTURES / "own-type").exits(3, f"rows.jsonl:61: {message}")
        assert len(done.out.splitlines()) == (0 if out else 60)
        assert ("with --field NAME" in done.err) == ("column" in message)
        assert [path.name for path in Path().glob("*v.*")] == ["v.npy"]
        assert Path("v.npy").read_text(encoding="utf-8") == "old"
        if out is None:
            done = embed("--data", rows, "data.on_bad_row=skip", model=FIXTURES / "own-type").exits(0, "embeddings: 1 bad row skipped")
            line = parse_rows(done.out)[60]
            assert (line["id"], line["embedding"], message in line["error"]) == (60, None, True)
    Path("rows.csv").write_text("id,stuff\n1,the cat\n", encoding="utf-8")
    embed("--data", "rows.csv", *words).exits(3, "rows.csv:1: no column")


def test_the_fields_of_a_table_keep_their_types() -> None:
    """Numbers, truth values and times do; all else is text, or JSON as text."""
    odd: list[dict[str, Any]] = [
        {"number": 1, "part": 0.5, "is": True, "list": [1, {"é": 2}], "mixed": 1, "large": 2**70, "late": None, "half": "a\ud800"},
        {"number": None, "part": 2, "is": None, "list": None, "mixed": "ü", "large": 1, "late": None, "half": None},
    ]
    rows = write_rows(Path("rows.jsonl"), [{"text": "the cat", **odd[number > 0], "embedding": 1} for number in range(40)])
    embed("--data", rows, "--out", "v.parquet").exits(0, "the rows have the fields embedding already, which are replaced")
    table = pyarrow.parquet.read_table("v.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds.pop("embedding").startswith("fixed_size_list<element: float>")
    texts = dict.fromkeys(("text", "list", "mixed", "large", "late", "half"), "string")
    assert kinds == texts | {"number": "int64", "part": "double", "is": "bool"}
    first, second = table.drop_columns(["embedding", "text"]).slice(0, 2).to_pylist()
    assert first == odd[0] | {"list": '[1, {"é": 2}]', "mixed": "1", "large": str(2**70), "half": "a\\ud800"}
    assert second == odd[1] | {"large": "1"}
    days = [{"text": row["text"], "day": datetime.date(2024, 5, 1 + number % 30)} for number, row in enumerate(ROWS)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(days), "days.parquet")
    embed("--data", "days.parquet", "--out", "v.parquet").exits(0)
    assert pyarrow.parquet.read_table("v.parquet")["day"].to_pylist() == [row["day"] for row in days]


def test_a_later_row_that_does_not_fit_the_table() -> None:
    """Is an error, while the vectors alone can be written; a field that is missing is null."""
    for late, message in (
        ({"id": "x"}, "rows 49 to 75: the field 'id' is of type int64 in the first rows, and not here"),
        ({"more": 1}, "rows 49 to 75: a row has the field 'more', and the first ones have none of this name"),
        ({"": 1}, "rows 49 to 75: a row has the field '', and the first ones have none of this name"),
    ):
        rows = write_rows(Path("rows.jsonl"), [*ROWS[:70], ROWS[70] | late, *ROWS[71:]])
        embed("--data", rows, "--out", "v.parquet").exits(3, message)
        assert [*Path().glob("*v.*")] == []
    embed("--data", rows, "--out", "v.npy").exits(0)
    assert np.load("v.npy").shape[0] == 75
    write_rows(Path("rows.jsonl"), [*ROWS[:70], {"text": "the cat"}])
    embed("--data", rows, "--out", "v.parquet").exits(0)
    assert pyarrow.parquet.read_table("v.parquet")["id"].to_pylist() == [*range(70), None]
    Path("days").mkdir()
    for name, day in (("a", datetime.date(2024, 5, 1)), ("b", math.nan)):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "the cat", "day": day}] * 16), f"days/{name}.parquet")
    embed("--data", "days", "--out", "v.parquet").exits(3, "the field 'day' is of type date32[day] in the first rows, and not here")


def test_longer_texts_are_truncated_to_the_context() -> None:
    """Whatever the length of the training's rows was; data.sequence_length is another limit."""
    context = tfkit.load(FIXTURES / "classes").config.context_length
    texts = ["the cat " * context, "a dog sat on the mat"]
    rows = write_rows(Path("rows.jsonl"), [{"text": text} for text in texts])
    for words, limit, count in (
        (["data.sequence_length=4"], "data.sequence_length, 4", 2),
        (["data={sequence_length: 4}"], "data.sequence_length, 4", 2),
        ([], f"the model's context of {context}", 1),
    ):
        done = embed("--data", rows, "--out", "v.npy", *words).exits(0, f"{count} of 2 rows are longer than {limit} tokens")
        assert f"truncated   {count}" in done.out
    assert_of(texts, np.load("v.npy"), rtol=1e-7)


def test_each_precision() -> None:
    """auto is float32, since a vector is no choice; bf16 and int8 give nearly the same."""
    rows, found = write_rows(Path("rows.jsonl"), ROWS), {}
    for words in ("evaluation.precision=bfloat16", "evaluation={precision: bfloat16}"):
        assert embed("--data", rows, "--out", "v.npy", "--json", words).document["precision"] == "bfloat16"
    for wanted, named in (("auto", "float32"), ("float32", "float32"), ("bf16", "bfloat16"), *QUANTIZED):
        done = embed("--data", rows, "--out", "v.npy", "--json", "--precision", wanted)
        assert done.document["precision"] == named
        found[wanted] = np.load("v.npy")
    np.testing.assert_array_equal(found["auto"], found["float32"])
    for wanted in found.keys() - {"auto", "float32"}:
        assert not np.array_equal(found[wanted], found["float32"])
        alike = (found[wanted] * found["float32"]).sum(1) / np.linalg.norm(found[wanted], axis=1) / np.linalg.norm(found["float32"], axis=1)
        assert alike.min() > 0.99


def test_the_run_folder_has_the_result_and_what_a_link_leads_to_is_replaced() -> None:
    """By a new file, so that nobody reads half of one."""
    Path("there").mkdir()
    Path("there/v.npy").write_text("old", encoding="utf-8")
    Path("link.npy").symlink_to("there/v.npy")
    before = Path("there/v.npy").stat().st_ino
    done = embed("--data", write_rows(Path("rows.jsonl"), ROWS), "--run", "run", "--out", "link.npy", "--json").exits(0)
    assert receipt("run").items() >= {"kind": "embed", "status": "finished", "result": done.document}.items()
    assert "embed" in run_here(["runs", "."]).out
    assert (Path("link.npy").is_symlink(), np.load("there/v.npy").shape[0]) == (True, 75)
    assert Path("there/v.npy").stat().st_ino != before
    assert [path.name for path in Path("there").iterdir()] == ["v.npy"]
