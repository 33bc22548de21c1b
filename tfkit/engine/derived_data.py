"""Data sets that recipes read in another form than that of their public source, derived from it byte for byte as in the recorded runs."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

# From control characters of Latin-1 to the punctuation of Windows-1252 that they were before the text was decoded wrongly.
_WINDOWS = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}


def sentence_polarity(archive: Path) -> dict[str, str]:
    """Return the csv files of Sentence Polarity v1.0 (Pang and Lee 2005) from nltk's archive, with the lines of both classes in turn: of
    every ten pairs the first goes to test, the second to valid.
    """
    with zipfile.ZipFile(archive) as source:
        texts = [source.read(f"sentence_polarity/rt-polarity.{side}").decode().translate(_WINDOWS) for side in ("neg", "pos")]
    files = {name: io.StringIO() for name in ("train.csv", "valid.csv", "test.csv")}
    writers = {name: csv.writer(file, lineterminator="\n") for name, file in files.items()}
    for writer in writers.values():
        writer.writerow(("text", "label"))
    for number, pair in enumerate(zip(*(text.removesuffix("\n").split("\n") for text in texts), strict=True)):
        writer = writers[("test.csv", "valid.csv")[number % 10] if number % 10 < 2 else "train.csv"]
        writer.writerows((line.strip(), label) for line, label in zip(pair, ("negative", "positive"), strict=True))
    return {name: file.getvalue() for name, file in files.items()}


def reviews(sentences: Path) -> dict[str, str]:
    """Return the prompts of instructgpt-reviews, `{"prompt": "the film is"}`, from the files of Sentence Polarity: the first three words of
    the sentences of train.csv, each once, and the first 128 of valid.csv that are not among them.
    """
    trained, others = _beginnings(sentences / "train.csv"), _beginnings(sentences / "valid.csv")
    prompts = {"prompts.jsonl": [*trained], "held_out.jsonl": [text for text in others if text not in trained][:128]}
    return {name: "".join(json.dumps({"prompt": text}) + "\n" for text in texts) for name, texts in prompts.items()}


def _beginnings(path: Path) -> dict[str, None]:
    with path.open(encoding="utf-8", newline="") as file:
        return dict.fromkeys(" ".join(row["text"].split()[:3]) for row in csv.DictReader(file))


# By the set's name in recipes/data.json; each function gets the set's archive, or the folder of the set that it is derived from.
DERIVED: dict[str, Callable[[Path], dict[str, str]]] = {"sentence_polarity": sentence_polarity, "reviews": reviews}
