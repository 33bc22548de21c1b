"""tfkit predict: the answers of every kind of model to rows without a label, from files and pipes, and what is written where."""

import csv
import datetime
import io
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from answer_runs import KINDS, made_rows, stop_in_the_fourth_window
from test_evaluate import write_checkpoint
from tiny_files import parse_rows, write_rows
from tiny_runs import Done, Process, Program, run_here, run_piped

from tfkit.engine.inference.pipe import Pipe

ANSWERS = {"classes": "label", "numbers": "size", "sets": "kinds", "tags": "names", "parts": "parts", "choices": "right"}
ANSWERS |= {"spans": "asked", "texts": "answers"}
ROWS = made_rows(50)[26:]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"


@pytest.fixture(autouse=True)
def _here(answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def predict(*words: object, stdin: bytes | None = None) -> Done:
    command = ["predict", *words, "--threads", "1"]
    return run_here(command) if stdin is None else run_piped(command, stdin)


def predicted(*words: object, stdin: bytes | None = None) -> list[Any]:
    return parse_rows(predict(*words, stdin=stdin).exits(0).out)


def read_table(name: str) -> list[dict[str, str]]:
    with open(name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if name.endswith("tsv") else ","))


def unlabelled(name: str) -> list[dict[str, Any]]:
    """The held-out rows without the answer, and with further fields."""
    rows = [{"id": number, **{key: value for key, value in row.items() if key != ANSWERS.get(name)}} for number, row in enumerate(ROWS)]
    return [row | {"talk": row["talk"][:-1]} for row in rows] if name == "chat" else rows


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", KINDS)
def test_rows_without_a_label_have_the_predictions_of_an_evaluation(answers: Path, name: str) -> None:
    """With and without the label, in batches of any size."""
    command = ["evaluate", "--from", name, "--predictions", str(Path("of.jsonl").absolute()), "--threads", "1"]
    run_here(command, answers).exits(0)
    wanted = parse_rows(Path("of.jsonl").read_text(encoding="utf-8"))
    rows = unlabelled(name)
    found = predicted("--from", answers / name, "--data", write_rows(Path("new.jsonl"), rows), "--all", "evaluation.batch_size=5")
    assert [{key: one[key] for key in row} for one, row in zip(found, rows, strict=True)] == rows  # every field, in order
    mine, expected = [one["prediction"] for one in found], [one.get("predicted", one.get("text")) for one in wanted]
    if name == "numbers":
        assert mine == pytest.approx(expected, rel=1e-4)
    elif name == "choices":
        assert mine == [row[("other", "third")[number]] for row, number in zip(rows, expected, strict=True)]
    else:
        assert mine == expected
    if name == "classes":
        assert [one["probability"] for one in found] == pytest.approx([one["probability"] for one in wanted], rel=1e-4)
        assert all(one["probability"] == max(one["probabilities"].values()) for one in found)
        assert [*found[0]["probabilities"]] == ["blue", "green", "red"]
    assert ("probability" in found[0]) == ("probabilities" in found[0]) == (name not in ("numbers", "texts", "chat"))
    labelled = predicted("--from", answers / name, "--data", answers / "test.jsonl")
    assert [one["prediction"] for one in labelled] == (pytest.approx(mine, rel=1e-4) if name == "numbers" else mine)
    if name in ANSWERS:
        assert [one[ANSWERS[name]] for one in labelled] == [row[ANSWERS[name]] for row in ROWS]  # a label that is there is kept
    assert "probabilities" not in labelled[0]


def test_words_of_a_conll_file_without_tags(answers: Path) -> None:
    """The same tags as with further columns, and as in JSON lines."""
    sentences = [row["words"] for row in ROWS[:5]]
    Path("words.conll").write_text("\n".join("".join(f"{word}\n" for word in words) for words in sentences), encoding="utf-8")
    start = ["--from", answers / "tags", "data.validation.0.columns={tokens: tokens}"]
    found = predicted(*start, "--data", "words.conll")
    assert [one["tokens"] for one in found] == sentences
    assert predicted(*start, "--data", write_rows(Path("words.jsonl"), [{"tokens": words} for words in sentences])) == found
    Path("tagged.conll").write_text("\n".join("".join(f"{word} X\n" for word in words) for words in sentences), encoding="utf-8")
    assert [one["prediction"] for one in predicted(*start, "--data", "tagged.conll")] == [one["prediction"] for one in found]


def test_a_table_in_gives_a_table_out(answers: Path) -> None:
    """With every cell as it was; other input, and stdout, have JSON lines."""
    rows = [{"id": "007", "text": row["text"], "note": 'é, "q"\nnew line'} for row in ROWS]
    with open("new.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    start = ["--from", answers / "classes", "--data", "new.csv"]
    printed = predicted(*start)
    document = predict(*start, "--out", "out.csv", "--json").exits(0).document
    table = read_table("out.csv")
    assert [{key: one[key] for key in rows[0]} for one in table] == rows
    assert [(one["prediction"], float(one["probability"])) for one in table] == [(one["prediction"], one["probability"]) for one in printed]
    assert (document["rows"], document["bad_rows"], document["out"], document["objective"]) == (24, 0, "out.csv", "classification")
    assert document["tokens"] > 24 * 2
    done = predict(*start, "--out", "out.jsonl")
    assert [line.split("  ")[0] for line in done.out.splitlines()] == ["predictions", "rows", "checkpoint"]
    text = Path("out.jsonl").read_text(encoding="utf-8")
    assert (parse_rows(text), "é" in text) == (printed, True)
    predict(*start, "--out", "out.tsv", "--all").exits(0)
    assert json.loads(read_table("out.tsv")[0]["probabilities"]).keys() == {"blue", "green", "red"}


def test_parquet_and_tables_without_a_header(answers: Path) -> None:
    """Every column is kept, those that nothing reads, too; what has no names is read by the names that its content suggests."""
    made = [{"id": number, "text": row["text"], "when": datetime.date(2024, 5, number + 1)} for number, row in enumerate(ROWS)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), "rows.parquet")
    start = ["--from", answers / "classes", "--data"]
    found = predicted(*start, "rows.parquet")
    assert [(one["id"], one["text"], one["when"]) for one in found] == [(row["id"], row["text"], str(row["when"])) for row in made]
    cells = [(f"{row['text']} again", row["label"]) for row in ROWS]
    Path("bare.csv").write_text("".join(f"{text};{label}\n" for text, label in cells), encoding="utf-8")
    assert [(one["text"], one["label"]) for one in predicted(*start, "bare.csv")] == cells


def test_rows_that_cannot_be_read(answers: Path) -> None:
    """An error with file and row, after the rows before it; with data.on_bad_row=skip a line without a prediction."""
    good = {"id": 1, "text": "the cat"}
    bad = ['{"id": 2, "other": "no text"}', "not JSON", '{"id": 4, "text": "\\u200b", "x": NaN}']
    Path("bad.jsonl").write_text("\n".join([json.dumps(good), *bad, json.dumps(good), ""]), encoding="utf-8")
    start = ["--from", answers / "classes", "--data", "bad.jsonl"]
    name = 'name the one that holds the text with --columns "text=NAME"'
    done = predict(*start).exits(3, f"bad.jsonl:2: no column 'text'; columns found: id, other; {name}", "data.on_bad_row: skip")
    assert len(done.out.splitlines()) == 1, done.out
    done = predict(*start, "data.on_bad_row=skip").exits(0)
    first, second, third, fourth, fifth = parse_rows(done.out)
    assert first == fifth
    assert (second["id"], second["prediction"]) == (2, None)
    assert second["error"].startswith("bad.jsonl:2: no column 'text'")
    assert third.keys() == {"prediction", "error"}
    assert (fourth["id"], fourth["x"], fourth["prediction"], fourth["nonfinite"]) == (4, None, None, {"x": "nan"})
    assert "3 bad rows skipped: 1 no column 'text' (first bad.jsonl:2), 1 not JSON (first bad.jsonl:3), 1 no tokens" in done.err
    predict(*start, "data.on_bad_row=skip", "--out", "out.csv").exits(3, "the field 'other', and the first has none")
    write_rows(Path("unnamed.jsonl"), [{"text": "the cat"}, {"text": "the cat", "": 1}])
    predict("--from", answers / "classes", "--data", "unnamed.jsonl", "--out", "out.csv").exits(3, "the field '', and the first has none")
    Path("bad.csv").write_text("id,text\n1,\n2,the cat,and more\n3,a dog\n", encoding="utf-8")
    done = predict("--from", answers / "classes", "--data", "bad.csv", "data.on_bad_row=skip", "--out", "out.csv", "--json").exits(0)
    assert done.document["bad_rows"] == 2
    table = read_table("out.csv")
    assert [*table[0]] == ["id", "text", "prediction", "probability", "error"]
    assert [(one["id"], one["prediction"] != "", one["error"] != "") for one in table] == [("1", 0, 1), ("", 0, 1), ("3", 1, 0)]
    assert [*Path().glob(".*out.csv*")] == []


def test_what_is_wrong_with_the_command(answers: Path) -> None:
    write_checkpoint(answers.parent / "model")
    start = ["--from", answers / "classes", "--data", answers / "test.jsonl"]
    for words, code, message in [
        (["hello"], 2, "predict does not know 'hello': give rows as --data F"),
        (["training.steps=3"], 2, "training.steps: this command reads only the sections data, objective, evaluation, generation, carbon"),
        (["--out", "nowhere/out.jsonl"], 5, "the folder nowhere does not exist"),
        (["--out", answers / "test.jsonl"], 2, "is among the data that this command reads"),
        (["data.validation=null"], 2, "the override of data.validation replaces the given rows"),
    ]:
        predict(*start, *words).refuses(code, message)
    Path("empty.jsonl").touch()
    for data, message in [("empty.jsonl", "no rows here"), ("nowhere.csv", "no such file or folder"), ("-", "stdin: there is no row")]:
        predict(*start[:2], "--data", data, stdin=b"").exits(3, message)
    for model, code, message in [
        (Path("nowhere"), 4, "nowhere"),
        (answers.parent / "model", 4, "this model continues texts, and has no chat template, so its task is not known"),
        (FIXTURES / "finished", 2, "causal_lm gives no answer to a row: predict is for models that were trained on labelled rows"),
    ]:
        predict("--from", model, "--data", "empty.jsonl").exits(code, message)


PIPED = {  # what comes, and the text that is read, or what is said of a table without it
    b"id;text\n3;the cat\n": "the cat",
    b'{"text": "the cat", "id": 3}\n': "the cat",
    b"id,text\n3,the cat\n": "the cat",
    b"\xef\xbb\xbfid\ttext\r\n3\tthe cat\r\n": "the cat",
    b"\nthe cat\n": "the cat",
    b"the cat, a dog\n": "the cat, a dog",
    b"cat\n": "cat",
    b"1,2\n": "1,2",
    b"id,remarkable\n1,the cat\n": None,
    b"id\tremarkable\tzip_code\n1,the cat\n": None,
    b"id;remarkable\n1,the cat\n": None,
}


@pytest.mark.parametrize("stdin", PIPED)
def test_what_comes_from_a_pipe_is_recognised(answers: Path, stdin: bytes) -> None:
    """A table that lacks the column is no text, and a line that is no table is one."""
    done = predict("--from", answers / "classes", "--data", "-", stdin=stdin)
    if PIPED[stdin] is None:
        done.exits(3, "stdin:1: no column 'text'", "columns found: id, remarkable")
    else:
        one = parse_rows(done.exits(0).out)[-1]
        assert (one["text"], one["prediction"] in ("blue", "green", "red"), str(one.get("id", 3))) == (PIPED[stdin], True, "3")


def test_a_text_a_line_is_a_question_or_a_source(answers: Path) -> None:
    """Whatever the column is called in training."""
    for name, more in (("texts", []), ("numbers", []), ("chat", ["data.validation.0.columns={}"])):
        [one] = predicted("--from", answers / name, "--data", "-", *more, stdin=b"the cat sat\n")
        assert (one["text"], type(one["prediction"])) == ("the cat sat", float if name == "numbers" else str)
        assert name != "chat" or [*one] == ["text", "prediction"]


@pytest.mark.thorough
def test_a_checkpoint_from_elsewhere_knows_its_objective(answers: Path) -> None:
    """By tfkit.json, else by its head."""
    for name in KINDS:
        [checkpoint] = (answers / name / "checkpoints").glob("step-*")
        alone = shutil.copytree(checkpoint, Path(f"{name}-alone"))
        columns = f"data.validation.0.columns={KINDS[name][2]}"
        start = ["--data", answers / "test.jsonl", "carbon.enabled=false", "generation.max_new_tokens=6", columns]
        wanted = [one["prediction"] for one in predicted("--from", answers / name, *start)]
        assert [one["prediction"] for one in predicted("--from", alone, *start)] == wanted
        for file in ("tfkit.json", "manifest.json"):
            (alone / file).unlink()
        assert [one["prediction"] for one in predicted("--from", alone, *start)] == wanted


# -- the program


def command(answers: Path, *words: object) -> list[str]:
    return ["predict", "--from", str(answers / "classes"), *map(str, words), "--threads", "1"]


def test_a_row_from_a_pipe_is_answered_as_it_comes(answers: Path) -> None:
    """Without waiting for a full batch; and Ctrl-C ends the waiting."""
    program = Program(command(answers, "--data", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for number in range(3):
        program.stdin.write(json.dumps({"id": number, "text": "the cat"}).encode() + b"\n{")
        program.stdin.flush()
        assert select.select([program.stdout], [], [], 300)[0], "no answer"
        assert json.loads(program.stdout.readline())["id"] == number
        program.stdin.write(b'"id": 9, "text": "a dog"}\n')
        program.stdin.flush()
        assert json.loads(program.stdout.readline())["id"] == 9
    time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=300)
    assert (program.returncode, b"6 rows answered" in err, b"Traceback" in err) == (130, True, False), err


@pytest.mark.parametrize("out", [[], ["--out", "pipe"]], ids=["stdout", "a named pipe"])
def test_a_reader_that_has_had_enough_ends_it(answers: Path, out: list[str]) -> None:
    rows = write_rows(Path("many.jsonl"), unlabelled("classes") * 400)
    os.mkfifo("pipe")
    program = Program(command(answers, "--data", rows, *out), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with open("pipe", "rb") if out else program.stdout as reader:
        assert json.loads(reader.readline())["id"] == 0
    assert (program.communicate(timeout=300), program.returncode) == ((b"", b""), 0)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_the_fields_of_a_table_are_those_of_the_rows(answers: Path, suffix: str) -> None:
    """Also those that look like formulas, or hold delimiters, quotes and any line end: a reader of tables gets them back."""
    odd = ["=1+1", "+1", "-1", "@x", "'=x", "\tx", "\rx", "x\ry", "x\ny", "x\r\ny", 'x"y', "x,y;z\tw", "\r", "\u2028", "-", "x\\y", "=\r"]
    rows = write_rows(Path("odd.jsonl"), [row | {"note": note} for row, note in zip(unlabelled("classes") * 9, odd, strict=False)])
    predict("--from", answers / "classes", "--data", rows, "--out", f"out.{suffix}").exits(0)
    assert [row["note"] for row in read_table(f"out.{suffix}")] == odd


@pytest.mark.parametrize(
    ("name", "out", "number"),
    [("predict", "new.jsonl", signal.SIGTERM), ("embed", "new.npy", signal.SIGTERM), ("embed", "new.parquet", signal.SIGINT)],
)
def test_a_stopped_command_leaves_no_half_file(answers: Path, name: str, out: str, number: int) -> None:
    rows = write_rows(Path("many.jsonl"), unlabelled("classes") * 400)
    words = [name, *command(answers, "--data", rows, "--out", out)[1:]]
    Process(Path(), words, stop_in_the_fourth_window(number)).wait().exits(128 + number, "112 rows answered")
    assert [*Path().glob("*new*")] == []


def test_a_tagger_reads_plain_text_and_writes_conll(answers: Path) -> None:
    """From stdin, from lines of a file, and in Python; words are split as in data sets of tagged words."""
    text = "the cat's 3.5-mat (a) hat."
    words = ["the", "cat's", "3.5-mat", "(", "a", ")", "hat", "."]
    [line] = predicted("--from", answers / "tags", "--data", "-", stdin=f"{text}\n".encode())
    assert (line["text"], line["tokens"], len(line["prediction"])) == (text, words, len(words))
    Path("texts.txt").write_text(f"{text}\nthe dog\n", encoding="utf-8")
    start = ["--from", answers / "tags", "--data", "texts.txt", "data.validation.0.format=lines"]
    predict(*start, "--out", "tagged.conll").exits(0)
    sentences = Path("tagged.conll").read_text(encoding="utf-8").split("\n\n")
    assert sentences[0].splitlines() == [f"{word}\t{tag}" for word, tag in zip(words, line["prediction"], strict=True)]
    assert [one.split("\t")[0] for one in sentences[1].splitlines()] == ["the", "dog"]
    again = predicted("--from", answers / "tags", "--data", "tagged.conll", "--columns", "tokens=tokens")
    assert again[0]["prediction"] == line["prediction"], "which is read again"
    predict(*start, "--out", "cut.conll", "data.sequence_length=4").exits(0)
    cut = [pair.split("\t") for pair in Path("cut.conll").read_text(encoding="utf-8").split("\n\n")[0].splitlines()]
    assert ([word for word, _ in cut], {tag for _, tag in cut[4:]}) == (words, {"_"}), "words beyond the context have no tag"


def test_conll_has_the_words_that_were_read(answers: Path) -> None:
    """From a column of another name, beside one named tokens, and from a text; none of a row that cannot be read. A word has one line."""
    words = ["the", "cat", "sat"]
    rows = [{"words": words, "tokens": [5, 6, 7]}, {"words": "the cat sat"}, {"words": ["c\na\tt"]}, {"words": 5}]
    start = ["--from", answers / "tags", "--data", write_rows(Path("rows.jsonl"), rows), "--columns", "tokens=words"]
    predict(*start, "data.on_bad_row=skip", "--out", "words.conll").exits(0)
    *sentences, unread = Path("words.conll").read_text(encoding="utf-8").split("\n\n")
    assert [[line.split("\t")[0] for line in sentence.splitlines()] for sentence in sentences] == [words, words, ["c a t"]]
    assert (sentences[0], unread) == (sentences[1], "\n")


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv"])
def test_a_field_that_is_nested_too_deeply_is_an_error(answers: Path, out: str) -> None:
    Path("deep.jsonl").write_text('{"text": "the cat", "more": ' + "[" * 700 + "]" * 700 + "}\n", encoding="utf-8")
    said = "a field of a row is nested too deeply to be written again; leave it out"
    predict("--from", answers / "classes", "--data", "deep.jsonl", "--out", out).exits(3, said)


@pytest.mark.parametrize(("start", "name"), [("classes", "out.xlsx"), ("classes", "out.conll"), ("tags", "out.txt"), ("classes", "out")])
def test_a_suffix_without_a_format_is_refused(answers: Path, start: str, name: str) -> None:
    suffix = Path(name).suffix  # a name without one has JSON lines
    said = [f"--out {name}: nothing is written in the format {suffix}; name a file in .jsonl"] if suffix else []
    predict("--from", answers / start, "--data", answers / "test.jsonl", "--out", name).exits(2 if suffix else 0, *said)
    assert Path(name).exists() == (not suffix)


def test_a_stream_that_does_not_wait_is_read_to_its_end() -> None:
    """As a parent process may leave stdin: the stream then gives None while there is nothing to read."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    parts = [b"first\nsec", b"ond\n"]

    class Slow(io.FileIO):
        """Whose writer writes after each read that found nothing."""

        def read(self, size: int | None = -1, /) -> bytes:
            block = super().read(size)
            if block is None:
                os.write(write_end, parts.pop(0)) if parts else os.close(write_end)
            return block

    with Slow(read_end) as raw:
        assert [*Pipe(raw, "stdin")] == [b"first\n", b"second\n"]
