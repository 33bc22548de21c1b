"""Write the prompts of the recipe instructgpt-reviews, from the sentences of film reviews of the recipe sentence-polarity.

    tfkit recipes sentence-polarity --fetch
    python benchmarks/make_reviews.py data/sentence_polarity data/reviews

prompts.jsonl: the first three words of the sentences of train.csv, each once, `{"prompt": "the film is"}`; held_out.jsonl: the first 128
of valid.csv that are not among them.
"""

import csv
import json
import sys
from pathlib import Path

WORDS, HELD_OUT = 3, 128


def prompts(path: Path) -> list[str]:
    """Return the beginnings of the sentences of a csv file in their order, each once."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(dict.fromkeys(" ".join(row["text"].split()[:WORDS]) for row in csv.DictReader(file)))


def make(sentences: Path, folder: Path) -> None:
    """Write the two files, the same on every machine."""
    trained = prompts(sentences / "train.csv")
    known = {*trained}
    held_out = [text for text in prompts(sentences / "valid.csv") if text not in known][:HELD_OUT]
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("prompts", trained), ("held_out", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
