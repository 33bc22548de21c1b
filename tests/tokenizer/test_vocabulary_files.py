"""Folders with vocabulary files alone, such as BERT's vocab.txt: the ids of transformers for every text, or refused with the file."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from beside_transformers import agreed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tfkit.errors import ModelError
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import load_tokenizer, train_tokenizer
from tfkit.tokenizer.sentencepiece_file import read_model

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFG0123456789éÉüßñçøŁΑαΣσςЖжאあ中文한்்.,;:!?-_'\"()[]{}<>@#$%&*+=/|~`"
WORDS = ["the", "cat", "##s", "##ing", "run", "naive", "naïve", "##ïve", "über", "uber", "中", "##文", "don", "İ", "i", "##̇"]
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ODD = [
    *("", " ", "\n", "\t x \r\n y", "\x00a\x07b\x7f", "\u200b\u00ada\ufeff", "\u2028x\u2029", "\u3000中文 漢字kanji"),
    *("é e\u0301 É E\u0301", "İstanbul ı I", "ΑΣ ας", "[MASK] [mask] a[SEP]b[CLS]", "##s ##", "a" * 99, "a" * 100, "a" * 101),
    *("the" * 40, "🙂😀 👨‍👩‍👧", "한국어 தமிழ் עברית", "don't can’t", "x\u0000y", "ﬁ ﬂ Ǆ ①②", "1,000.50 $5 10%", "http://a.b/c?d=e&f"),
    *("\U0001d400\U0001d7ce", "a\u0300\u0301\u0302", "\ud7a3\u1100"),
]


def texts() -> list[str]:
    """Return odd texts, and hundreds that are drawn from everything that BERT's normalizer treats apart."""
    random.seed(1)
    pool = [*LETTERS, *WORDS, *SPECIAL, *ODD[:12], " ", " ", " ", "\u00a0", "\u0301", "\u200d", "\ufffd"]
    return ODD + ["".join(random.choices(pool, k=random.randint(1, 30))) for _ in range(500)]


def write(folder: Path, settings: dict[str, Any] | None, **files: Any) -> Path:
    folder.mkdir()
    for name, content in {**({} if settings is None else {"tokenizer_config": settings}), **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def folder_of(path: Path, lines: list[str], settings: dict[str, Any] | None, end: str = "\n", **files: Any) -> Path:
    write(path, settings, **{**files, "config": {"model_type": "bert", **files.get("config", {})}})
    (path / "vocab.txt").write_bytes(end.join([*lines, ""]).encode())
    return path


def check(folder: Path, again: Path, drawn: list[str] | None = None) -> None:
    drawn = texts() if drawn is None else drawn
    agreed(folder, again, drawn, list(zip(drawn[::2], drawn[1::2], strict=False))[:100])


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
    check(folder_of(tmp_path / "bert", ENTRIES, settings, **more), tmp_path / "again")


def test_windows_line_ends_and_repeated_entries(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "bert", [*ENTRIES, "the", " ", "x\u2003"], None, end="\r\n")
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.encode_texts(["the cat x"]) == [theirs("the cat x")["input_ids"]]
    assert len(ENTRIES) in ours.encode_texts(["the"])[0]


def test_another_models_vocabulary_is_not_taken_for_berts(tmp_path: Path) -> None:
    assert load_tokenizer(folder_of(tmp_path / "class", ENTRIES, {"tokenizer_class": "BertJapaneseTokenizer"})) is None
    assert load_tokenizer(folder_of(tmp_path / "type", ENTRIES, None, config={"model_type": "roformer"})) is None
    with pytest.raises(ModelError, match=r"vocab\.txt: has no line \[UNK\], \[SEP\], \[PAD\], \[CLS\], \[MASK\]"):
        load_tokenizer(folder_of(tmp_path / "lines", ["a", "b"], None))


def test_settings_of_another_kind_are_refused_or_left_out(tmp_path: Path) -> None:
    expected = load_tokenizer(folder_of(tmp_path / "bert", ENTRIES, {"unk_token": "[UNK]"})).encode_texts(["the cat"])
    for number, nothing in enumerate(({}, {"content": None})):
        assert load_tokenizer(folder_of(tmp_path / f"{number}", ENTRIES, {"unk_token": nothing})).encode_texts(["the cat"]) == expected
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: strip_accents is 'x'"):
        load_tokenizer(folder_of(tmp_path / "accents", ENTRIES, {"strip_accents": "x"}))
    folder = write(tmp_path / "language", {"tokenizer_class": "MBartTokenizer", "src_lang": "xx_XX"}, config={"model_type": "mbart"})
    pieces = (b"\x0a\x05<unk>\x18\x02", b"\x0a\x03<s>\x18\x03", b"\x0a\x04</s>\x18\x03", b"\x0a\x01a\x15\0\0\x80\xbf")
    (folder / "sentencepiece.bpe.model").write_bytes(b"".join(b"\x0a" + bytes([len(piece)]) + piece for piece in pieces))
    with pytest.raises(ModelError, match=r"sentencepiece\.bpe\.model: has no line xx_XX"):
        load_tokenizer(folder)


def test_the_vocabularies_of_later_encoders(tmp_path: Path) -> None:
    electra = folder_of(tmp_path / "electra", ENTRIES, {"tokenizer_class": "ElectraTokenizer"}, config={"model_type": "electra"})
    check(electra, tmp_path / "electra again")
    names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    entries = [names.get(entry, entry) for entry in ENTRIES]
    for stated in ({"tokenizer_class": "MPNetTokenizer"}, {}):
        folder = folder_of(tmp_path / f"mpnet {len(stated)}", entries, stated, config={"model_type": "mpnet"})
        check(folder, tmp_path / f"again {len(stated)}")


LSTRIPPED = {"__type": "AddedToken", **MASK, "content": "<mask>"}


@pytest.mark.parametrize(
    ("variant", "settings", "model_type"),
    [
        ("roberta", {"tokenizer_class": "RobertaTokenizer"}, "roberta"),
        ("roberta", {"tokenizer_class": "RobertaTokenizer", "mask_token": LSTRIPPED}, "roberta"),
        ("roberta", {"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": True}, "roberta"),
        ("roberta", {"tokenizer_class": "BartTokenizer"}, "bart"),
        ("roberta", {}, "bart"),
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer"}, "gpt2"),
        ("gpt2", {}, "gpt2"),
    ],
    ids=str,
)
def test_vocab_json_and_merges(variant: str, settings: dict[str, Any], model_type: str, tmp_path: Path) -> None:
    trained = train_tokenizer(TokenizerSection(kind="byte_bpe", variant=variant, vocab_size=500), [" ".join(WORDS), *texts()[:200]])
    document = json.loads(trained.tokenizer_json)
    vocab = document["model"]["vocab"] | {token["content"]: token["id"] for token in document["added_tokens"]}
    folder = write(tmp_path / "found", settings, vocab=vocab, config={"model_type": model_type})
    merges = ["#version: 0.2", *(" ".join(merge) for merge in document["model"]["merges"]), ""]
    (folder / "merges.txt").write_text(("\n" if settings else "\r\n").join(merges), encoding="utf-8", newline="")
    check(folder, tmp_path / "again")


_OF_T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_OF_DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
MODELS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "t5": ("spiece.model", {"tokenizer_class": "T5Tokenizer"}, "t5", _OF_T5),
    "t5 with fewer sentinels": ("spiece.model", {"tokenizer_class": "T5Tokenizer", "extra_ids": 5}, "t5", _OF_T5),
    "mt5 without a class": ("spiece.model", {}, "mt5", _OF_T5),
    "xlm-roberta": ("sentencepiece.bpe.model", {"tokenizer_class": "XLMRobertaTokenizer"}, "xlm-roberta", {}),
    "xlm-roberta without a class": ("sentencepiece.bpe.model", {}, "xlm-roberta", {}),
    "camembert": ("sentencepiece.bpe.model", {"tokenizer_class": "CamembertTokenizer"}, "camembert", {}),
    "mbart": ("sentencepiece.bpe.model", {"tokenizer_class": "MBartTokenizer"}, "mbart", {}),
    "mbart from german": ("sentencepiece.bpe.model", {"tokenizer_class": "MBartTokenizer", "src_lang": "de_DE"}, "mbart", {}),
    "deberta": ("spm.model", {"tokenizer_class": "DebertaV2Tokenizer"}, "deberta-v2", _OF_DEBERTA | {"unk_piece": "[UNK]"}),
    "deberta, lower-cased": (
        "spm.model",
        {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": True, "split_by_punct": True},
        "deberta-v2",
        _OF_DEBERTA | {"unk_piece": "[UNK]"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_sentencepiece_models(name: str, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    file, settings, model_type, pieces = MODELS[name]
    folder = write(tmp_path / "found", settings, config={"model_type": model_type})
    lines = [text.replace("\x00", " ") for text in [" ".join(WORDS), *texts()]] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / file).removesuffix(".model"), vocab_size=220, minloglevel=2, **pieces
    )
    drawn = [text for text in texts() if "<" not in text]
    check(folder, tmp_path / "again", drawn)
    model, theirs = read_model(folder / file), sentencepiece.SentencePieceProcessor(model_file=str(folder / file))
    assert [piece.text for piece in model.pieces] == [theirs.id_to_piece(number) for number in range(theirs.vocab_size())]
    assert [piece.score for piece in model.pieces] == [theirs.get_score(number) for number in range(theirs.vocab_size())]
    assert model.unknown == theirs.unk_id()
    assert model.replacements


def test_bytes_need_no_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "found", {"tokenizer_class": "ByT5Tokenizer"}, config={"model_type": "t5"})
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    drawn = [text for text in texts() if "<" not in text]
    assert ours.encode_texts(drawn) == [theirs(text)["input_ids"] for text in drawn]
    assert (ours.size, ours.eos_id, ours.pad_id) == (384, 1, 0)
    assert ours.encode_texts(["a<extra_id_0>b"]) == [theirs("a<extra_id_0>b")["input_ids"]] == [[100, 259, 101, 1]]
    assert [ours.decode(ids, skip_special_tokens=True) for ids in ours.encode_texts(drawn)] == drawn


@given(st.binary(max_size=300), st.integers(0, 2000))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_model_is_refused(tmp_path: Path, garbage: bytes, cut: int) -> None:
    whole = b"".join(b"\x0a" + bytes([len(piece)]) + piece for piece in (b"\x0a\x01a\x15\0\0\x80\xbf", b"\x0a\x02bc\x18\x03")) * 20
    path = tmp_path / "spiece.model"
    refusals = []
    for content in (garbage, whole[:cut] + garbage, garbage + whole):
        path.write_bytes(content)
        try:
            assert read_model(path).pieces
        except ModelError as error:
            refusals.append(str(error))
    assert all(message.startswith(str(path)) for message in refusals)
