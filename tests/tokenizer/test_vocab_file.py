"""A folder with BERT's vocab.txt alone: the ids of transformers for every text, or refused with the file."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tfkit.errors import ModelError
from tfkit.tokenizer import load_tokenizer, save_tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFG0123456789éÉüßñçøŁΑαΣσςЖжאあ中文한்்.,;:!?-_'\"()[]{}<>@#$%&*+=/|~`"
WORDS = ["the", "cat", "##s", "##ing", "run", "naive", "naïve", "##ïve", "über", "uber", "中", "##文", "don", "İ", "i", "##̇"]
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ODD = [
    *(
        "",
        " ",
        "\n",
        "\t x \r\n y",
        "\x00a\x07b\x7f",
        "\u200b\u00ada\ufeff",
        "\u2028x\u2029",
        "\u3000中文 漢字kanji",
        "é e\u0301 É E\u0301",
    ),
    *(
        "İstanbul ı I",
        "ΑΣ ας",
        "[MASK] [mask] a[SEP]b[CLS]",
        "##s ##",
        "a" * 99,
        "a" * 100,
        "a" * 101,
        "the" * 40,
        "🙂😀 👨‍👩‍👧",
        "한국어 தமிழ் עברית",
    ),
    *(
        "don't can’t",
        "x\u0000y",
        "ﬁ ﬂ Ǆ ①②",
        "1,000.50 $5 10%",
        "http://a.b/c?d=e&f",
        "\U0001d400\U0001d7ce",
        "a\u0300\u0301\u0302",
        "\ud7a3\u1100",
    ),
]


def texts() -> list[str]:
    """Return odd texts, and hundreds that are drawn from everything that BERT's normalizer treats apart."""
    random.seed(1)
    pool = [*LETTERS, *WORDS, *SPECIAL, *ODD[:12], " ", " ", " ", "\u00a0", "\u0301", "\u200d", "\ufffd"]
    return ODD + ["".join(random.choices(pool, k=random.randint(1, 30))) for _ in range(500)]


def folder_of(path: Path, lines: list[str], settings: dict[str, Any] | None, end: str = "\n", **files: Any) -> Path:
    path.mkdir()
    (path / "vocab.txt").write_bytes(end.join([*lines, ""]).encode())
    (path / "config.json").write_text(json.dumps({"model_type": "bert", **files.pop("config", {})}), encoding="utf-8")
    if settings is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


ENTRIES = [*dict.fromkeys([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS])]
MASK = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "special": True, "single_word": False}


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        (None, {}),
        ({"do_lower_case": False}, {}),
        ({"do_lower_case": True, "strip_accents": False, "tokenizer_class": "BertTokenizer"}, {}),
        ({"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}, {}),
        ({"tokenizer_class": "DistilBertTokenizer", "model_max_length": 512}, {"config": {"model_type": "distilbert"}}),
        ({"added_tokens_decoder": {str(ENTRIES.index("[MASK]")): MASK}}, {}),
        ({}, {"special_tokens_map": {"unk_token": "[UNK]", "mask_token": MASK}, "added_tokens": {"<new>": len(ENTRIES)}}),
    ],
    ids=str,
)
def test_the_ids_are_those_of_transformers(settings: dict[str, Any] | None, more: dict[str, Any], tmp_path: Path) -> None:
    """Text by text and in pairs, and again from the tokenizer.json that is saved of it."""
    folder = folder_of(tmp_path / "bert", ENTRIES, settings, **more)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours is not None
    drawn = texts()
    assert ours.encode_texts(drawn) == theirs(drawn)["input_ids"]
    pairs = list(zip(drawn[::2], drawn[1::2], strict=False))[:100]
    expected = theirs(*map(list, zip(*pairs, strict=True)), return_token_type_ids=True)
    assert [pair[:2] for pair in encode_pairs(ours, pairs)] == list(zip(expected["input_ids"], expected["token_type_ids"], strict=True))
    (tmp_path / "again").mkdir()
    save_tokenizer(ours, tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again is not None
    assert again.fingerprint() == ours.fingerprint()
    assert AutoTokenizer.from_pretrained(tmp_path / "again")(drawn)["input_ids"] == theirs(drawn)["input_ids"]


def test_windows_line_ends_and_repeated_entries(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "bert", [*ENTRIES, "the", " ", "x\u2003"], None, end="\r\n")
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours is not None
    assert ours.encode_texts(["the cat x"]) == [theirs("the cat x")["input_ids"]]
    assert len(ENTRIES) in ours.encode_texts(["the"])[0]


def test_another_models_vocabulary_is_not_taken_for_berts(tmp_path: Path) -> None:
    assert load_tokenizer(folder_of(tmp_path / "class", ENTRIES, {"tokenizer_class": "BertJapaneseTokenizer"})) is None
    assert load_tokenizer(folder_of(tmp_path / "type", ENTRIES, None, config={"model_type": "electra"})) is None
    with pytest.raises(ModelError, match=r"vocab\.txt: has no line \[UNK\], \[SEP\], \[PAD\], \[CLS\], \[MASK\]"):
        load_tokenizer(folder_of(tmp_path / "lines", ["a", "b"], None))
