"""benchmarks/make_chat_pairs.py: dialogues become messages, and rows that are long, or part before the last answer, are left out."""

import gzip
import json
from pathlib import Path

from make_chat_pairs import LONGEST, make

BEGIN = "\n\nHuman: Which is it?\n\nAssistant: Neither.\n\nHuman: Why\nthen?"


def test_short_dialogues_become_messages(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"{BEGIN}\n\nAssistant: Because.", "rejected": f"{BEGIN}\n\nAssistant: So: what? "},
        {"chosen": f"{BEGIN}\n\nAssistant: Because.", "rejected": f"{BEGIN}\n\nAssistant:{' so' * (LONGEST // 3)}"},
        {"chosen": f"{BEGIN}\n\nAssistant: Because.", "rejected": f"{BEGIN}\n\nAssistant:"},
        {"chosen": f"{BEGIN}\n\nAssistant: Because.", "rejected": f"{BEGIN} Or\n\nAssistant: So."},
    ]
    with gzip.open(tmp_path / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    make(tmp_path / "test.jsonl.gz", tmp_path / "pairs")
    [line] = (tmp_path / "pairs" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [("user", "Which is it?"), ("assistant", "Neither."), ("user", "Why\nthen?")]
    assert json.loads(line) == {
        "prompt": [{"role": role, "content": text} for role, text in asked],
        "chosen": [{"role": "assistant", "content": "Because."}],
        "rejected": [{"role": "assistant", "content": "So: what?"}],
    }
