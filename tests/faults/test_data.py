"""Data that are odd, bad or damaged: the run reads them, skips them, or ends with 3 and says where and what to do."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from attacks.mutations import mutated_bytes
from tiny_files import read_json
from tiny_runs import WORDS, After, Done, Process, Replaced, both, hashes, pretrain, run_here, write_corpus, write_recipe

import tfkit.data.store.token_stream
import tfkit.tokenizer.kinds
import tfkit.tokenizer.tokenizer
from tfkit.data import cache_folder, open_source, token_stream
from tfkit.data.columns.rows import OnBadRow
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.tokenizer import Tokenizer, train_byte_bpe

RECIPE = """
model: {preset: gpt2, decoder_layers: 1, dim: 8, num_heads: 1, context_length: 16}
tokenizer: {vocab_size: 300}
data: {train: [{path: CORPUS}]}
training: {steps: 1, batch_size: 2, precision: fp32}
carbon: {enabled: false}
"""
TEXT = " ".join(np.random.default_rng(2).choice(WORDS, 200))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))


def train_on(path: Path | str, folder: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
    """A run of one step on this file, folder or glob, in a run folder of its own."""
    runs = folder / "runs"
    runs.mkdir(exist_ok=True)
    (runs / "recipe.yaml").write_text(RECIPE.replace("CORPUS", json.dumps(str(path))), encoding="utf-8")
    return pretrain(runs / str(time.monotonic_ns()), runs / "recipe.yaml", *words, before=before)


def sources(part: str, paths: Iterable[Path]) -> str:
    """The word of a command that has these files as the sources of a part, one each."""
    return f"data.{part}={json.dumps([{'path': str(path)} for path in paths])}"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_byte_bpe([TEXT], 300, add_bos=True)


def refusal(path: Path, policy: OnBadRow, tokenizer: Tokenizer, column: str = "text") -> str | None:
    """The message of the DataError with which reading a file ends, with 3 in the program; None if it is read."""
    try:
        token_stream(open_source(SourceSection(path=str(path), text=column), "all", None, policy), tokenizer)
    except DataError as error:
        return str(error)
    return None


def jsonl(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def parquet(folder: Path, values: list[Any]) -> bytes:
    path = folder / "made.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), path, row_group_size=50, compression="none")
    content = path.read_bytes()
    path.unlink()
    return content


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, mtime=0),
    "bz2": bz2.compress,
    "xz": lambda content: lzma.compress(content, preset=0),
    "zst": lambda content: pyarrow.Codec("zstd").compress(content, asbytes=True),
}


def packed(content: bytes, name: str) -> bytes:
    """As what the name ends in: plain, compressed, or in an archive, which may be compressed, too."""
    inner, *packings = name.split(".")
    for packing in packings:
        content = archived(content, f"rows.{inner}", packing) if packing in ("zip", "tar") else PACKINGS[packing](content)
    return content


def archived(content: bytes, name: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zip_file:
            zip_file.writestr(zipfile.ZipInfo(name), content)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar_file:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar_file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def repeating(path: Path, nested: bool, name: str) -> None:
    """A Parquet file of less than a kilobyte whose 256 texts, or the list of this many in its one row, take 3 GB."""
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 256, pyarrow.int32()), pyarrow.array(["a" * 12_000_000]))
    column = pyarrow.ListArray.from_arrays(pyarrow.array([0, 256], pyarrow.int32()), texts) if nested else texts
    table = pyarrow.table({name: column})
    pyarrow.parquet.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)
    assert path.stat().st_size < 1000


GOOD = {"text": TEXT}
# ------------------------------------------------------------------------------------------------------------- odd, but good

ODD = {
    "one row.jsonl": jsonl(GOOD),
    "one row, no end.jsonl": jsonl(GOOD)[:-1],
    "nul.txt": TEXT.encode() + b"\0\0" + TEXT.encode(),
    "nul.csv": b"text\na\0b\n" + TEXT.encode() + b"\n",
    "nul.jsonl": jsonl({"text": "a\0b"}, GOOD),
    "crlf.txt": TEXT.replace(" ", "\r\n").encode(),
    "crlf.csv": b"text\r\n" + TEXT.encode() + b"\r\n",
    "crlf.jsonl": jsonl(GOOD).replace(b"\n", b"\r\n"),
    "bom.txt": b"\xef\xbb\xbf" + TEXT.encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(GOOD),
    "bom.csv": b"\xef\xbb\xbf" + b"text\n" + TEXT.encode(),
    "quotes.tsv": b"text\tn\n" + TEXT.encode() + b'\t1\n"a"b\t2\nc\t3\n',
    "empty rows.jsonl": jsonl({"text": ""}, GOOD, {"text": ""}),
    "rows.json": b"\xef\xbb\xbf" + json.dumps([{"text": ""}, GOOD, {"text": "a\0b"}]).encode(),
    "rows in an object.json": json.dumps({"license": "none", "data": [GOOD]}).encode(),
    "lines.lst": b"\xef\xbb\xbf" + TEXT.replace(" s", "\r\ns").encode() + b"\n\n",
    **{f"two parts.txt.{name}": pack(TEXT.encode()) * 2 for name, pack in PACKINGS.items()},
    **{f"rows.jsonl.{name}": pack(jsonl(GOOD)) for name, pack in PACKINGS.items()},
    **{f"rows.{name}": packed(jsonl(GOOD), f"jsonl.{name}") for name in ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst")},
    "rows.tgz": packed(jsonl(GOOD), "jsonl.tar.gz"),
}


def test_f36_odd_data_are_read(tmp_path: Path) -> None:
    for name, content in ODD.items():
        (tmp_path / name).write_bytes(content)
    done = train_on("", tmp_path, sources("train", (tmp_path / name for name in ODD))).exits(0)
    assert all(f"{tmp_path / name}: 1 file" in done.err for name in ODD)


# ------------------------------------------------------------------------------------------------- bad rows: refused, or skipped

BAD_ROWS = {  # the file, where the message says the trouble is, a part of what it says, and the kind that is counted
    "utf8.jsonl": (jsonl(GOOD) + b'{"text": "\xe9"}\n', ":2", f"byte {len(jsonl(GOOD)) + 10} (0xe9) is not UTF-8", "not UTF-8"),
    "utf8.csv": (b"text,n\n" + TEXT.encode() + b',1\n"a\n\xff",2\nb,3\n', ":4", "(0xff) is not UTF-8", "not UTF-8"),
    "cut.jsonl": (jsonl(GOOD, GOOD)[:-9], ":2", "writing it may have been cut short", "not JSON"),
    "column.jsonl": (jsonl(*[GOOD] * 20, *[{"text": "a"}] * 980, {"txt": 1}, GOOD), ":1001", "columns found: txt", "no column 'text'"),
    "type.jsonl": (jsonl(GOOD, {"text": [1]}, {"text": "b"}), ":2", "column 'text' holds list", "list, not text"),
    "array.jsonl": (jsonl(GOOD, ["text"]), ":2", "expected a JSON object, found list", "not a JSON object"),
    "digits.jsonl": (jsonl(GOOD) + b'{"text": ' + b"1" * 5000 + b"}\n", ":2", "not a JSON object", "not JSON"),
    "deep.jsonl": (jsonl(GOOD) + b"[" * 100_000 + b"\n", ":2", "too deeply nested", "not JSON"),
    "quotes.csv": (b"text,n\n" + TEXT.encode() + b',1\n"a"b,2\nc,3\n', ":3", "not a valid record", "not CSV"),
    "utf8.json": (b"[" + jsonl(GOOD) + b', {"text": "\xe9"}]', ", item 2", "a byte (0xe9) that is not UTF-8", "not UTF-8"),
    "type.json": (json.dumps([GOOD, "text"]).encode(), ", item 2", "expected a JSON object, found str", "not a JSON object"),
    "macintosh.csv": (b"text\n" + TEXT.encode() + b"\nb\rc\n", ":3", "convert the file (tr '\\r' '\\n' < OLD > NEW)", "not CSV"),
    "open.csv": (b"text\n" + TEXT.encode() + b'\n"b\n', ":3", "close the quotes", "not CSV"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_f36_a_bad_row_is_named(tmp_path: Path, name: str, tokenizer: Tokenizer) -> None:
    content, place, reason, _ = BAD_ROWS[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name, "error", tokenizer)
    assert f"{tmp_path / name}{place}: " in message
    assert reason in message
    assert "data.on_bad_row: skip" in message
    if name == "open.csv":
        assert message in train_on(tmp_path / name, tmp_path).exits(3).err


def test_f36_bad_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    """Each is reported once, though training and validation both skip it."""
    for name, (content, *_) in BAD_ROWS.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in BAD_ROWS]
    for cached in (False, True):
        done = train_on("", tmp_path, "data.on_bad_row=skip", sources("train", paths), sources("validation", paths)).exits(0)
        assert ("from the cache" in done.err) == cached
        assert done.err.count("bad row") == len(BAD_ROWS)
        for name, (_, place, _, kind) in BAD_ROWS.items():
            assert f"{kind} (first {tmp_path / name}{place})" in done.err


def test_f36_bad_rows_of_parquet_and_bad_text_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.parquet").write_bytes(parquet(tmp_path, [TEXT, None, "UTF-8 to spoil", "fine"]).replace(b"UTF-8", b"UTF\xff8"))
    (tmp_path / "a" / "latin.txt").write_bytes(b"\xe9")
    train_on(tmp_path / "a/one.parquet", tmp_path).exits(3, "one.parquet:2: column 'text' holds null")
    train_on(tmp_path / "a", tmp_path, "data.on_bad_row=skip").exits(0, "3 bad rows skipped: 2 not UTF-8 (first ")


def test_f36_where_every_row_is_bad_nothing_is_trained(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"body": "a"}, {"body": "b"}))
    said = f"every row is bad; the first is {tmp_path}/a.jsonl:1: no column 'text'; columns found: body"
    train_on(tmp_path / "a.jsonl", tmp_path, "data.on_bad_row=skip").exits(3, said)


# -------------------------------------------------------------------------------------------------- what no policy can skip


def of_size(archive: bytes, size: int) -> bytes:
    """A tar of one file whose header states another size, in tar's binary form, with the sum that fits."""
    header = bytearray(archive[: tarfile.BLOCKSIZE])
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + archive[tarfile.BLOCKSIZE :]


def without_end(archive: bytes) -> bytes:
    """A tar cut after its last file, whole blocks of zeros."""
    return archive[: -(-len(archive.rstrip(b"\0")) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE]


def spoilt_header(archive: bytes) -> bytes:
    """A tar of two files, of which the second has a header that is not valid."""
    return without_end(archive) + archive.replace(b"rows", b"rats", 1)


# pyarrow ends the process if it is asked for the metadata of this file's column.
DAMAGED_CHUNK = base64.b64decode(
    "UEFSMRUAFRYVFiwVAhUAFQYVBhwAAAACAAAAAgEBAAAAYRUEGSw1ABgGc2NoZW1hFQIAFQwlEhgEdGV4dCUATBwAAAAWAhkcGRwmABwVDBklBgAZGAR0ZXh0FQAWAhY8"
    "FjwmCEkcFQAVABUCADwWAhkGGSYAAgAAABY8FgImCBY8ACggcGFycXVldC1jcHAtYXJyb3cgdmVyc2lvbiAyNi4wLjEZHBwAAACIAAAAUEFSMQ=="
)
DAMAGED = {  # more of them, of each format alone, are in tests/data
    "chunk.parquet": (DAMAGED_CHUNK, "damaged or no Parquet file"),
    "empty.csv": (b"", "no rows"),
    "empty.parquet": (b"", "damaged or no Parquet file"),
    "blank.jsonl": (jsonl({"text": ""}), "no text"),
    "16.txt": (TEXT.encode("utf-16"), "this is UTF-16, by its first bytes; convert the file (iconv -f UTF-16 -t UTF-8)"),
    "32.csv": (TEXT.encode("utf-32"), "this is UTF-32"),
    "header.tsv": (b"te\xffxt\n", "header.tsv:1: byte 2 (0xff) is not UTF-8"),
    "column.csv": (b"body,n\na,1\n", "no column 'text'; columns found: body, n"),
    "flipped.jsonl.gz": (gzip.compress(jsonl(GOOD)).replace(b"\0\0\0\0", b"\0\0\0\1")[:-6] + b"\1\2\3\4\5\6", "damaged or cut gzip"),
    **{
        f"{damage}.txt.{name}": (content, f"damaged or cut {of}")
        for name, of in (("bz2", "bzip2"), ("xz", "xz"), ("zst", "zstd"))
        for damage, content in {"cut": PACKINGS[name](TEXT.encode())[:-20], "plain": TEXT.encode()}.items()
    },
    "cut.tar": (packed(jsonl(GOOD), "jsonl.tar")[:700], "damaged or no tar file"),
    "cut between files.tar": (without_end(packed(jsonl(GOOD), "jsonl.tar")), "damaged or no tar file (its end is missing"),
    "spoilt header.tar": (spoilt_header(packed(jsonl(GOOD), "jsonl.tar")), "damaged or no tar file (its end is missing"),
    "negative.tar": (of_size(packed(jsonl(GOOD), "jsonl.tar"), -1024), "damaged or no tar file"),
    "text.tar": (TEXT.encode(), "damaged or no tar file"),
    "picture.tar": (packed(b"", "png.tar"), "no text, jsonl, json, csv, tsv, parquet or CoNLL file in this archive"),
    "zip in a.tar": (packed(packed(jsonl(GOOD), "jsonl.zip"), "zip.tar"), "an archive in an archive is not opened"),
    "a.txt": (packed(jsonl(GOOD), "jsonl.zst"), "this is zstd, by its first bytes; rename it with the suffix of this format"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c\0\4", "this is a 7z archive, by its first bytes; unpack it, and name its files"),
    "blank.json": (b" \n", "no rows"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_f36_damaged_files_are_refused(tmp_path: Path, name: str, policy: OnBadRow, tokenizer: Tokenizer) -> None:
    content, reason = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name, policy, tokenizer)
    assert name in message
    assert reason in message
    if name == "cut.tar":
        assert message in train_on(tmp_path / name, tmp_path, f"data.on_bad_row={policy}").exits(3).err


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("damage", ["cut", "middle"])
def test_f36_damage_in_the_middle_is_found_whatever_came_before(
    tmp_path: Path, policy: OnBadRow, damage: str, tokenizer: Tokenizer
) -> None:
    content = parquet(tmp_path, [f"{i} {TEXT}" for i in range(400)])
    half = len(content) // 2
    content = content[:half] if damage == "cut" else content[: half - 20_000] + bytes(40_000) + content[half + 20_000 :]
    (tmp_path / "a.parquet").write_bytes(content)
    assert "a.parquet: damaged" in str(refusal(tmp_path / "a.parquet", policy, tokenizer))


def test_f36_no_file_no_text_and_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "empty.jsonl").mkdir()
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "circle.txt").symlink_to(tmp_path / "circle.txt")
    for path, reason in {
        tmp_path / "pipe.txt": "device, pipe or socket",
        "/dev/zero": "device, pipe or socket",
        tmp_path / "empty.jsonl": "no text, jsonl, json, csv, tsv, parquet or CoNLL file in this folder",
        tmp_path / "dangling.txt": "no such file",
        tmp_path / "circle.txt": "no such file",
        tmp_path / "a.txt/b": "no such file",
        "x" * 5000: "File name too long",
        "~nobody-of-this-name/a.txt": "no such user",
    }.items():
        train_on(path, tmp_path).exits(3, reason)


@pytest.mark.parametrize("pattern", ["", "/**/*.txt", "/**"])
def test_f36_links_that_lead_in_a_circle_do_not_hang(tmp_path: Path, pattern: str) -> None:
    """Followed, these two links have 2^40 paths."""
    folder = tmp_path / "corpus"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.txt").write_text(TEXT, encoding="utf-8")
    os.mkfifo(folder / "pipe.txt")
    for name in ("one", "two"):
        (folder / "below" / name).symlink_to(folder)
    train_on(f"{folder}{pattern}", tmp_path).exits(0, ": 1 file, ")


# --------------------------------------------------------------------------------------------- enough text, and the right ids


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "tokens do not fill one row of 16 + 1; give more text, or set a smaller data.sequence_length"),
        (["data.train=[{path: long.txt, weight: 1e-3}]"], "weight 0.001 of 15 rows is less than one row"),
        (["data.train=[{path: a.jsonl}]", "data.validation=0.001"], "1 file, 1 kB; held out part, 0.10% of the rows: no text in any row"),
        (["data.train=[{path: a.jsonl}]", "data.validation=0.999"], "train part, 0.10% of the rows: no text to train a tokenizer on"),
        (
            ["data={train: [{path: long.txt}], validation: [{path: one.txt}]}", "tokenizer.add_bos=false", "evaluation.every=1"],
            "one.txt: nothing to score: of 1 texts none has a token that follows another",
        ),
    ],
    ids=["no whole row", "a weight of less than a row", "nothing held out", "nothing to train on", "nothing to score"],
)
def test_f37_too_little_text_is_refused_with_numbers(tmp_path: Path, in_tmp_path: None, words: list[str], said: str) -> None:
    """And before training."""
    for name, text in {"short.txt": "the cat", "long.txt": TEXT, "one.txt": "a", "a.jsonl": json.dumps(GOOD)}.items():
        Path(name).write_text(text, encoding="utf-8")
    train_on("short.txt", tmp_path, *words).exits(3, said)
    assert not list((tmp_path / "runs").glob("*/checkpoints/*"))


def test_f37_ids_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    in_the_recipe = "tokenizer.vocab_size: 300 entries are more than model.vocab_size, which is 280"
    train_on(tmp_path / "a.txt", tmp_path, "model.vocab_size=280").exits(2, in_the_recipe)
    train_on(tmp_path / "a.txt", tmp_path).exits(0)
    (model,) = (tmp_path / "runs").glob("*/checkpoints/step-000001")
    done = train_on(tmp_path / "a.txt", tmp_path, f"tokenizer={{path: {json.dumps(str(model))}}}", "model.vocab_size=280")
    done.exits(2, "model.vocab_size is 280, but the tokenizer has 300 entries")


# ------------------------------------------------------------------------------------------------------ not the same text


@pytest.mark.sampled(2)
@pytest.mark.parametrize("part", ["train", "validation"])
def test_f38_other_text_is_refused_on_resuming(tmp_path: Path, part: str) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text(TEXT, encoding="utf-8")
    recipe = write_recipe(tmp_path, tmp_path / "train.txt")
    words = ["checkpoint.every=2", f"data.validation=[{{path: {json.dumps(str(tmp_path / 'validation.txt'))}}}]"]
    pretrain(tmp_path / "run", recipe, *words, "training.steps=2").exits(0)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    before = read_json(checkpoint / "training_state" / "state.json")["data"]
    (tmp_path / f"{part}.txt").write_text(TEXT.replace("cat", "cow"), encoding="utf-8")
    said = f"the {part} text is not what this run was started with: its fingerprints were {before[part][0]} and are now "
    pretrain(tmp_path / "run", recipe, *words, "training.steps=4", "--resume").exits(3, said)
    run_here(["resume", tmp_path / "run", "training.steps=4"]).exits(3, said)
    (tmp_path / f"{part}.txt").write_text(TEXT, encoding="utf-8")
    pretrain(tmp_path / "run", recipe, *words, "training.steps=4", "--resume").exits(0)


# --------------------------------------------------------------------------------------------- signals while Rust is at work


def struck(number: int, call: str, ended: Path) -> Callable[[], None]:
    """A fault: a signal comes a second after this function of tfkit has called into Rust; `ended` is there once Rust has done it all."""

    started: list[threading.Timer] = []

    def watching(original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(work: Callable[[], Any], abandoned: threading.Event | None = None) -> Any:
            stop = abandoned or threading.Event()

            def to_its_end() -> Any:
                done = work()
                if not stop.is_set():
                    ended.touch()
                return done

            if started or call not in repr(work):
                return original(work, abandoned)
            started.append(threading.Timer(1, os.kill, (os.getpid(), number)))
            started[0].start()
            return original(to_its_end, stop)

        return watched

    return both(*(Replaced(module, "interruptible", watching) for module in (tfkit.tokenizer.kinds, tfkit.tokenizer.tokenizer)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("call", "kind", "number", "code"),
    [
        ("Corpus", "byte_bpe", signal.SIGTERM, 143),
        ("Corpus", "unigram", signal.SIGINT, 130),
        ("encode_batch_fast", "byte_bpe", signal.SIGTERM, 143),
    ],
)
def test_f04_a_signal_while_rust_is_at_work(tmp_path: Path, call: str, kind: str, number: int, code: int) -> None:
    """Training on this many words, and encoding a word so long, each take Rust many seconds: the signal does not wait for them."""
    path = tmp_path / "a.txt"
    path.write_bytes(many_words(1_000_000) if call == "Corpus" else many_words(3_000_000).replace(b" ", b"s"))
    word = "tokenizer.vocab_size=30000" if call == "Corpus" else "tokenizer.sample_bytes=100000"
    done = train_on(path, tmp_path, word, f"tokenizer.kind={kind}", before=struck(number, call, tmp_path / "ended"))
    done.exits(code, "no step was taken")
    assert not (tmp_path / "ended").exists()
    assert not list(cache_folder().glob("streams/*"))
    assert len(list(cache_folder().glob("tokenizers/*"))) == (call != "Corpus")
    assert not list(cache_folder().glob("*/.*"))


@pytest.mark.thorough
def test_f04_a_fresh_process_leaves_with_its_code(tmp_path: Path) -> None:
    """The tests above fork, and leave with os._exit: here Python itself shuts down, beside a thread that is still in Rust."""
    (tmp_path / "a.txt").write_bytes(many_words(400_000))
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("CORPUS", str(tmp_path / "a.txt")).replace("300", "30000"), encoding="utf-8")
    command = [sys.executable, "-m", "tfkit", "pretrain", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert "1 file" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert "no step was taken" in process.stderr.read()
        assert process.wait() == 143


def many_words(count: int) -> bytes:
    """Text of `count` different words."""
    words = np.random.default_rng(3).integers(97, 123, (count, 9), dtype=np.uint8)
    words[:, 8] = ord(" ")
    return words.tobytes()


# ------------------------------------------------------------------------------------------------------------ a very long line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["words", "letters"])
def test_f36_a_line_of_100_mb_is_read_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    block = many_words(200_000) if kind == "words" else b"abcdefghij" * 5 + b"1"  # the letters have no space anywhere
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + block * (100_000_000 // len(block)) + b'"}\n')
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = tmp_path / "peak"

    def noted(built: Any, *_: object) -> Any:
        peak.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), encoding="utf-8")
        return built

    measured = After(tfkit.data.store.token_stream, "indexed_folder", noted).__call__
    train_on(tmp_path / "a.jsonl", tmp_path, "tokenizer.sample_bytes=10000000", before=measured).exits(0)
    assert (int(peak.read_text(encoding="utf-8")) - base) * (1 if sys.platform == "darwin" else 1024) < 2e9


# ------------------------------------------------------------------------------------------------------------------- mutations


AWKWARD = [b"\0", b"\xff\xfe", b'"', b"\n", b"\r", b"\xef\xbb\xbf", b"9" * 5000, b"[" * 3000, b"NaN", b"\xf0\x9f", b"\t,", b"\\ud800"]
AWKWARD += [b"\xff" * 8]


def mutated(content: bytes, dice: Random) -> bytes:
    for _ in range(dice.randint(1, 4)):
        content = mutated_bytes(content, dice, AWKWARD, most=19)
    return content


def originals(folder: Path) -> dict[str, bytes]:
    """A small good file of each format that a mutation can reach; a .gz or .zip holds one of them."""
    rows = [f"{i} {TEXT[i * 7 : i * 7 + 60]} é" for i in range(20)]
    files = {"jsonl": jsonl(*[{"text": row, "n": 1} for row in rows]), "txt": "\n".join(rows).encode()}
    files["csv"] = "".join(["text,n\n", *(f'"{row}",1\n' for row in rows)]).encode()
    files["tsv"] = "".join(["n\ttext\n", *(f"1\t{row}\n" for row in rows)]).encode()
    files["parquet"] = parquet(folder, rows)
    files["json"] = json.dumps({"version": 1.5, "rows": [{"text": row, "n": 1} for row in rows]}, ensure_ascii=False).encode()
    files["lst"] = files["txt"]
    files["conll"] = "\n".join("".join(f"{word}\tO\n" for word in row.split()) for row in rows).encode()
    rest = "\t_" * 8
    sentences = [f"# text = {row}\n" + "".join(f"{i}\t{word}{rest}\n" for i, word in enumerate(row.split(), 1)) for row in rows]
    files["conllu"] = "\n".join(sentences).encode()
    return files


FUZZED = ["jsonl", "txt", "csv", "tsv", "parquet", "json", "lst", "conll", "conllu"]
FUZZED += ["txt.gz", "jsonl.gz", "parquet.gz", "jsonl.zip", "txt.zip", "json.zip"]
FUZZED += ["jsonl.bz2", "jsonl.xz", "jsonl.zst", "parquet.zst", "jsonl.tar", "txt.tar.gz", "parquet.tar", "json.tar.xz"]
COLUMN = {"conll": "tokens"}  # of the text, where it has another name


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", FUZZED)
def test_f49_mutated_files_are_read_or_refused(tmp_path: Path, request: pytest.FixtureRequest, name: str, tokenizer: Tokenizer) -> None:
    """All of them up to the tokens by the functions that the program calls, and every thirtieth by the program itself."""
    dice, original = Random(name), originals(tmp_path)[name.partition(".")[0]]
    draws, refused = request.config.getoption("--draws"), 0
    for draw in range(draws):
        path = tmp_path / f"{draw}.{name}"
        packed_last = dice.random() < 0.5
        path.write_bytes(packed(mutated(original, dice), name) if packed_last else mutated(packed(original, name), dice))
        for policy in get_args(OnBadRow):
            began = time.process_time()
            refused += refusal(path, policy, tokenizer, COLUMN.get(name, "text")) is not None
            assert time.process_time() - began < 10, path
        if draw % 30 == 0:
            words = [f"data.on_bad_row={'skip' if draw % 60 else 'error'}", f"data.train.0.text={COLUMN.get(name, 'text')}"]
            done = train_on(path, tmp_path, *words)
            assert done.code in (0, 3), f"{path}: {done.err}"
        shutil.rmtree(cache_folder())
    assert 0 < refused < 2 * draws or draws < 60, "mutations that spoil all files or none show little"


@pytest.mark.parametrize(("nested", "name"), [(False, "text"), (True, "text"), (False, "a.b")])
def test_f36_a_parquet_file_that_repeats_a_text_ends_the_run_in_little_memory(tmp_path: Path, nested: bool, name: str) -> None:
    def limit_memory() -> None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), resource.RLIM_INFINITY))

    repeating(tmp_path / "repeating.parquet", nested, name)
    said = ["repeating.parquet: unpacks to more than 250 times its ", "write it as JSON lines"]
    train_on(tmp_path / "repeating.parquet", tmp_path, f"data.train.0.text={name}", before=limit_memory).exits(3, *said)


# ---------------------------------------------------------------------------------------------------------- a deleted cache


@pytest.mark.sampled(2)
@pytest.mark.parametrize("pause", [0.03, 0.3])
def test_f53_the_cache_is_deleted_at_random_moments(tmp_path: Path, pause: float) -> None:
    recipe, cache = write_recipe(tmp_path, write_corpus(tmp_path / "corpus")), tmp_path / "cache"
    pretrain(tmp_path / "undisturbed", recipe, "training.steps=2").exits(0)
    expected = hashes(tmp_path / "undisturbed", 2)
    random = np.random.default_rng(int(pause * 100))
    for trial in range(3):
        shutil.rmtree(cache)
        run, ended = tmp_path / f"run-{trial}", threading.Event()
        process = Process(tmp_path, ["pretrain", str(recipe), "--run", str(run), "--threads", "1", "training.steps=2"])

        def delete(ended: threading.Event = ended) -> None:
            while not ended.wait(random.uniform(0, pause)):
                shutil.rmtree(cache, ignore_errors=True)

        deleting = threading.Thread(target=delete)
        deleting.start()
        done = process.wait()
        ended.set()
        deleting.join()
        cache.mkdir(exist_ok=True)
        if done.code:
            done.exits(5, "TFKIT_CACHE")
        else:
            assert hashes(run, 2) == expected
