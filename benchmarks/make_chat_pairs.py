"""Write the pairs of the recipe dpo-chat: the short dialogues of HH-RLHF as messages, so that a checkpoint's own chat template writes them.

    python benchmarks/make_chat_pairs.py data/hh_rlhf_harmless/test.jsonl.gz data/chat_pairs

pairs.jsonl: `{"prompt": [messages], "chosen": [answer], "rejected": [answer]}` of the rows whose two dialogues have at most 400 characters
each, and differ in the last answer alone.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

LONGEST = 400  # characters of a dialogue
_SPEAKERS = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}


def messages(dialogue: str) -> list[dict[str, str]]:
    """Return the turns of a dialogue."""
    found: list[dict[str, str]] = []
    starts = sorted((place, mark) for mark in _SPEAKERS for place in range(len(dialogue)) if dialogue.startswith(mark, place))
    for (place, mark), end in zip(starts, [*(place for place, _ in starts[1:]), len(dialogue)], strict=True):
        found.append({"role": _SPEAKERS[mark], "content": dialogue[place + len(mark) : end].strip()})
    return found


def pair(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row as prompt and answers; None if it is too long, or the dialogues part before the last answer."""
    if max(len(row["chosen"]), len(row["rejected"])) > LONGEST:
        return None
    chosen, rejected = messages(row["chosen"]), messages(row["rejected"])
    fits = chosen[:-1] == rejected[:-1] and chosen[-1]["role"] == "assistant" and all(one[-1]["content"] for one in (chosen, rejected))
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]} if fits else None


def make(source: Path, folder: Path) -> None:
    """Write the file, the same on every machine."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        pairs = [found for line in lines if (found := pair(json.loads(line))) is not None]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in pairs), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
