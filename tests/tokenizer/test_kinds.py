"""Each kind of tokenizer, trained here: what transformers makes of its files, what comes back of a text, and the same every time."""

import argparse
import json
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import transformers
from beside_transformers import assert_same, assert_same_roles
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.vocabularies import VOCABULARIES
from tfkit.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs
from tfkit.tokenizer.tokenizer import opening_bytes, token_bytes
from tfkit.tokenizer.tokenizer_files import UNLIMITED

CODE = "def add(a, b):\n    return a + b  # it's 12 or 345, isn't it?\n\n\nclass Old:\n    pass\n"
CORPUS = [
    Path(argparse.__file__).read_text(encoding="utf-8"),
    CODE * 20,
    "Grüße aus 東京 und São Paulo! 🦊 The quick brown fox.\r\n\ttabs\n" * 20,
]
PROBES = [
    *("", " ", "plain words, with  two spaces", " leading", "    return\n\n\n    x", "line\nline\r\n\n\ttab ", CODE, "a" * 300),
    *("Grüße 世界 🦊 e\u0301 \u202e \x00 \u00a0 \u3000wide İstanbul ǅ ﷺ", "12345 3.14 it's THE End, isn't it?", "▁already▁there"),
    "<s> </s> <unk> <pad> <bos> <mask> [MASK] [SEP] [CLS]x<extra_id_5>y <|endoftext|> <|end_of_text|> <0x41>",
]
SECTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"kind": "byte_bpe"},
    "llama3": {"kind": "byte_bpe", "variant": "llama3"},
    "smollm2": {"kind": "byte_bpe", "variant": "smollm2"},
    "roberta": {"kind": "byte_bpe", "variant": "roberta"},
    "bert": {"kind": "wordpiece"},
    "bert cased": {"kind": "wordpiece", "lowercase": False},
    "bert accents": {"kind": "wordpiece", "strip_accents": False},
    "bert more": {"kind": "wordpiece", "special_tokens": ["[E1]", "[/E1]"]},
    "gpt": {"kind": "bpe_eow"},
    "gpt tasks": {"kind": "bpe_eow", "special_tokens": ["_start_", "_delimiter_", "_classify_"]},
    "t5": {"kind": "unigram"},
    "t5 more": {"kind": "unigram", "special_tokens": ["<x>"]},
    "xlm_roberta": {"kind": "unigram", "variant": "xlm_roberta"},
    "llama": {"kind": "bpe_byte_fallback"},
    "llama without bos": {"kind": "bpe_byte_fallback", "add_bos": False},
    "gemma": {"kind": "bpe_byte_fallback", "variant": "gemma"},
    "translation": {"kind": "bpe_byte_fallback", "variant": "translation"},
    "gpt2 without bos": {"kind": "byte_bpe", "add_bos": False},
}
CLASSES = {
    **dict.fromkeys(("bert", "bert cased", "bert accents", "bert more"), "BertTokenizer"),
    **dict.fromkeys(("gpt", "gpt tasks"), "OpenAIGPTTokenizer"),
    **dict.fromkeys(("t5", "t5 more"), "T5Tokenizer"),
    **dict.fromkeys(("llama", "llama without bos"), "LlamaTokenizer"),
    "gemma": "GemmaTokenizer",
}


@cache
def trained(name: str) -> Tokenizer:
    return train_tokenizer(TokenizerSection(vocab_size=1500, **SECTIONS[name]), CORPUS)


@cache
def theirs(name: str) -> Any:
    """The tokenizer as transformers reads the saved one."""
    with TemporaryDirectory() as folder:
        save_tokenizer(trained(name), Path(folder))
        assert load_tokenizer(Path(folder)).fingerprint() == trained(name).fingerprint()
        return transformers.AutoTokenizer.from_pretrained(folder)


every = pytest.mark.parametrize("name", SECTIONS)
any_text = st.text(alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("aBé1 \n\t▁</s>[]_🦊世")), max_size=60)


@pytest.mark.sampled(8)
@every
def test_transformers_gives_the_same_ids_and_text(name: str) -> None:
    for text in PROBES:
        assert_same(trained(name), theirs(name), text)

    @given(any_text)
    @settings(deadline=None, max_examples=100)
    def random(text: str) -> None:
        assert_same(trained(name), theirs(name), text)

    random()


@every
def test_transformers_knows_the_same_special_tokens_and_joins_pairs_alike(name: str) -> None:
    ours, other = trained(name), theirs(name)
    assert_same_roles(ours, other)
    assert (len(other), other.model_max_length) == (ours.size, UNLIMITED)
    assert type(other).__name__ == CLASSES.get(name, "TokenizersBackend")
    (ids, segments, _) = encode_pairs(ours, [("the fox, it's", "def add")])[0]
    pair = other("the fox, it's", "def add")
    assert ids == pair["input_ids"]
    if name.startswith("bert"):
        assert segments == pair["token_type_ids"] == sorted(segments)
        assert (ids[0], ids[segments.index(1) - 1], ids[-1]) == (2, 3, 3)


def test_the_ids_of_the_special_tokens() -> None:
    """As systems.md gives them for vocabularies of one's own."""
    roles = ("bos_id", "eos_id", "pad_id", "unk_id", "cls_id", "sep_id", "mask_id", "start_id")
    expected = {
        "gpt2": (0, 0, None, None, None, None, None, 0),
        "llama3": (0, 1, 2, None, None, None, None, 0),
        "smollm2": (0, 0, None, None, None, None, None, 0),
        "bert": (None, None, 0, 1, 2, 3, 4, 0),
        "gpt": (None, None, None, 0, None, None, None, None),
        "t5": (None, 1, 0, 2, None, None, None, 0),
        "llama": (1, 2, None, 0, None, None, None, 1),
        "gemma": (2, 1, 0, 3, None, None, 4, 2),
        "translation": (None, 1, 0, 2, None, None, None, 0),
    }
    assert {name: tuple(getattr(trained(name), role) for role in roles) for name in expected} == expected
    assert len({trained(name).fingerprint() for name in SECTIONS}) == len(SECTIONS)
    templates = {name: (trained(name).prefix, trained(name).suffix) for name in SECTIONS}
    for name in ("gpt2", "llama3", "smollm2", "llama", "gemma"):
        assert templates[name] == ((trained(name).bos_id,), ())
    assert templates["bert"] == ((2,), (3,))
    assert templates["t5"] == templates["translation"] == ((), (1,))
    assert templates["gpt"] == templates["llama without bos"] == ((), ())


def test_further_special_tokens_follow_the_own_ones() -> None:
    for name, first in (("bert more", 5), ("gpt tasks", 1), ("t5 more", 3)):
        tokens = SECTIONS[name]["special_tokens"]
        assert [trained(name).backend.token_to_id(token) for token in tokens] == list(range(first, first + len(tokens)))
        assert trained(name).decode(range(first, first + len(tokens)), skip_special_tokens=True) == ""


@pytest.mark.parametrize("name", ["gpt2", "llama3", "smollm2"])
def test_a_special_token_in_a_text_is_text(name: str) -> None:
    tokenizer = trained(name)
    text = f"before {tokenizer.backend.id_to_token(0)} after"
    ids = tokenizer.encode_texts([text])[0][len(tokenizer.prefix) :]
    assert 0 not in ids
    assert tokenizer.decode(ids) == text


def test_an_unknown_id_has_no_bytes() -> None:
    with pytest.raises(ValueError, match="1500"):
        token_bytes(trained("gpt2"), 1500)


@pytest.mark.parametrize("name", ["t5", "t5 more"])
def test_the_sentinels_count_down_from_the_highest_id(name: str) -> None:
    tokenizer = trained(name)
    assert [tokenizer.backend.token_to_id(f"<extra_id_{n}>") for n in range(100)] == [tokenizer.size - 1 - n for n in range(100)]


# ------------------------------------------------------------------------------------------------------- what comes back


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["gpt2", "llama3", "smollm2", "gemma", "llama", "translation"])
@given(any_text)
@settings(deadline=None, max_examples=100)
def test_a_text_comes_back(name: str, text: str) -> None:
    """But for what the docstrings say: SentencePiece's ▁, and the space of Llama's ▁ before a text."""
    if "fallback" in SECTIONS[name]["kind"]:
        text = text.replace("▁", "_")
    if name in ("llama", "translation"):
        text = text.lstrip(" ")
    tokenizer = trained(name)
    ids = tokenizer.encode_texts([text])[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    if name not in ("llama", "translation"):  # whose first ▁ means nothing
        assert sum(map(partial(token_bytes, tokenizer), ids[len(tokenizer.prefix) :])) == len(text.encode())


def test_what_the_others_keep_of_a_text() -> None:
    kept = {"bert": "the old, gruße und 12", "bert cased": "The Old, Grüße und 12", "bert accents": "the old, grüße und 12"}
    for name, expected in (kept | {"gpt": "the old , gruße und 12", "t5": "The Old, Grüße und 12"}).items():
        tokenizer = trained(name)
        assert tokenizer.decode(tokenizer.encode_texts(["  The Old,\n\nGrüße   und 12"])[0], skip_special_tokens=True) == expected
        assert tokenizer.unk_id in tokenizer.encode_texts(["The 𒀀"])[0]


@pytest.mark.parametrize(
    ("name", "text", "first", "expected"),
    [
        ("t5", "  the argument", "▁the", 5),  # the spaces before it count: they are the text's own bytes
        ("t5", "世界 the", "▁", 0),  # which means nothing here
        ("t5", "x", "▁", 0),
        ("gpt", "世 the", "<unk>", 3),
        ("gpt", "À la", "a</w>", 2),
        ("llama without bos", " the", "▁the", 4),
        ("llama without bos", "the", "▁the", 3),
        ("llama without bos", "\nx", "▁", 0),
        ("llama without bos", "  x", "▁▁", 2),
        ("translation", "The x", "▁The", 3),
        ("bert cased", "世" * 1000, "[UNK]", 3),
    ],
)
def test_the_bytes_of_the_first_token(name: str, text: str, first: str, expected: int) -> None:
    tokenizer = trained(name)
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.backend.id_to_token(ids[0]) == first
    assert opening_bytes(tokenizer, text, ids) == expected
    assert opening_bytes(tokenizer, "", []) == 0


@every
def test_a_text_without_a_token_has_no_bytes_that_are_scored(name: str) -> None:
    tokenizer = trained(name)
    for text in ("", " ", "\n\t", "\x85", " " * 1000):
        if not tokenizer.prefix and len(tokenizer.backend.encode(text, add_special_tokens=False)) == 0:
            assert opening_bytes(tokenizer, text, tokenizer.encode_texts([text])[0]) == len(text.encode())


@pytest.mark.sampled(6)
@every
@given(any_text)
@settings(deadline=None, max_examples=50)
def test_a_first_token_never_has_more_bytes_than_the_text(name: str, text: str) -> None:
    tokenizer = trained(name)
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert 0 <= opening_bytes(tokenizer, text, ids) <= len(text.encode())


# ------------------------------------------------------------------------------------------------- what splits, what merges


def tokens(name: str, text: str) -> list[str]:
    return [trained(name).backend.id_to_token(i) for i in trained(name).backend.encode(text, add_special_tokens=False).ids]


def words(name: str, text: str) -> list[str]:
    splitter = trained(name).backend.pre_tokenizer
    return [word for word, _ in splitter.pre_tokenize_str(text)]


def test_each_kind_splits_as_its_system() -> None:
    """systems.md 14.4, and the sections on tokenizers."""
    assert words("gpt2", "It's 12345") == ["It", "'s", "Ġ12345"]
    assert words("smollm2", "It's 12345") == ["It", "'s", "Ġ", "1", "2", "3", "4", "5"]
    assert words("llama3", "It'S 12345\n\n b") == ["It", "'S", "Ġ", "123", "45", "ĊĊ", "Ġb"]
    assert tokens("gpt", "Fox")[-1].endswith("</w>")
    assert tokens("bert", "xyzzy")[1].startswith("##")
    assert tokens("llama", "a\nb")[1] == tokens("translation", "a\nb")[1] == "<0x0A>"
    assert tokens("gemma", "a\n\n\nb")[1].startswith("\n")
    assert tokens("llama", "12") == ["▁", "1", "2"]
    assert tokens("gemma", "12") == ["1", "2"]


@pytest.mark.parametrize("name", ["llama", "gemma", "translation", "t5"])
def test_nothing_is_merged_across_words(name: str) -> None:
    learned = [token for token in trained(name).backend.get_vocab() if not token.startswith("<")]
    assert len(learned) > 200
    assert not [token for token in learned if "▁" in token.lstrip("▁")]
    assert not [token for token in learned if any(c.isalpha() for c in token) and not token.lstrip("▁").isalpha()]
    assert any(token.startswith("▁▁") for token in learned) == (name != "t5"), "indentation"


# ------------------------------------------------------------------------------------------------------------------ training

REPEAT = """
import json, sys
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import train_tokenizer
sections, texts = json.load(sys.stdin)
print(json.dumps([train_tokenizer(TokenizerSection(vocab_size=900, **words), texts).tokenizer_json for words in sections]))
"""


@pytest.mark.thorough
def test_every_process_and_any_number_of_threads_give_the_same_tokenizer() -> None:
    """A plain call of the library's trainers gives each process another tokenizer: hash tables are in random order."""
    folder = Path(__file__).parents[2] / "tfkit"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))[:15]] + ["".join(map(chr, range(0x4E00, 0x4F00)))]
    trained = {(words["kind"], words.get("variant")): words for words in reversed(SECTIONS.values())}
    task = json.dumps([list(trained.values()), texts])
    results = set()
    for threads in ("1", "4"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": str(threads == "4").lower()}
        done = subprocess.run([sys.executable, "-c", REPEAT], input=task, env=environment, capture_output=True, text=True, check=True)
        results.add(done.stdout)
    assert len(results) == 1


@pytest.mark.sampled(6)
@every
def test_progress_hears_every_byte_once_and_may_stop_it(name: str) -> None:
    section = TokenizerSection(vocab_size=600, **SECTIONS[name])
    reported: list[int] = []
    train_tokenizer(section, CORPUS, reported.append)
    assert reported == [len(text.encode()) for text in CORPUS]

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(section, CORPUS, stop)


def smallest(words: dict[str, Any]) -> int:
    for size in range(1, 1000):
        try:
            return TokenizerSection(vocab_size=size, **words).vocab_size
        except ValidationError:
            continue
    raise AssertionError


@pytest.mark.sampled(6)
@every
def test_the_smallest_vocabulary_works_and_less_is_refused_with_numbers(name: str) -> None:
    words = SECTIONS[name]
    size = smallest(words)
    tokenizer = train_tokenizer(TokenizerSection(vocab_size=size, **words), CORPUS)
    assert tokenizer.size <= size
    assert len(tokenizer.encode_texts(["the fox"])[0]) > 1
    with pytest.raises(ValidationError, match=rf"vocab_size {size - 1} is too small: .* need {size}"):
        TokenizerSection(vocab_size=size - 1, **words)


@pytest.mark.sampled(9)
@every
@pytest.mark.parametrize("text", ["ab ab", "a", "\n", " ", "🦊"])
def test_a_small_corpus_gives_what_it_holds(name: str, text: str) -> None:
    tokenizer = train_tokenizer(TokenizerSection(vocab_size=600, **SECTIONS[name]), [text])
    assert tokenizer.size < 300
    for probe in PROBES:
        assert max([0, *tokenizer.encode_texts([probe])[0]]) < tokenizer.size


@pytest.mark.sampled(7)
@every
@pytest.mark.parametrize("character", ["x", " ", "+"])
def test_a_word_without_end_is_learned_from(name: str, character: str) -> None:
    tokenizer = train_tokenizer(TokenizerSection(vocab_size=600, **SECTIONS[name]), [character * 50_000, "ab " * 20])
    ids = tokenizer.encode_texts([character * 256])[0]
    assert len(ids) < 10 or name != "gpt2"


@pytest.mark.sampled(15)
@every
def test_more_characters_than_entries_leave_the_rare_ones_out(name: str) -> None:
    characters = [chr(0x4E00 + number) for number in range(400)]
    text = " ".join(character * (400 - number) for number, character in enumerate(characters))
    tokenizer = train_tokenizer(TokenizerSection(vocab_size=600, **SECTIONS[name]), [text])
    assert tokenizer.size <= 600
    rare = tokenizer.encode_texts([characters[-1]])[0]
    if tokenizer.unk_id is not None and SECTIONS[name]["kind"] not in ("byte_bpe", "bpe_byte_fallback"):
        assert tokenizer.unk_id in rare
        assert tokenizer.unk_id not in tokenizer.encode_texts([characters[0]])[0]
    else:
        assert tokenizer.decode(rare, skip_special_tokens=True) == characters[-1]


@pytest.mark.parametrize("name", ["gemma", "llama", "translation"])
def test_a_space_comes_back_from_a_tokenizer_whose_corpus_has_none(name: str) -> None:
    tokenizer = train_tokenizer(TokenizerSection(vocab_size=600, **SECTIONS[name]), ["好書不厭百回讀" * 20])
    for text in ("好書", "好 書"):
        assert tokenizer.decode(tokenizer.encode_texts([text])[0], skip_special_tokens=True) == text


# ------------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "wordpiece", "variant": "gpt2"}, "wordpiece has no variants: remove variant"),
        ({"kind": "byte_bpe", "variant": "gemma"}, "byte_bpe has no variant gemma; it has gpt2, llama3, smollm2, roberta"),
        ({"kind": "unigram", "add_bos": False}, "add_bos is not read by the variant t5: remove it"),
        ({"kind": "bpe_byte_fallback", "variant": "translation", "add_bos": False}, "add_bos is not read by the variant translation"),
        ({"kind": "byte_bpe", "lowercase": False}, "lowercase is not read by"),
        ({"kind": "bpe_eow", "strip_accents": True}, "strip_accents is not read by bpe_eow"),
        ({"kind": "unigram", "special_tokens": ["<extra_id_7>"]}, "<extra_id_7> is given twice, or is the kind's own"),
        ({"special_tokens": ["<x>", "<x>"]}, "<x> is given twice"),
        ({"special_tokens": [""]}, "at least 1 character"),
    ],
)
def test_what_a_kind_does_not_read_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenizerSection(**words)


def test_every_kind_and_variant_is_tried_here() -> None:
    tried = {(words["kind"], words.get("variant") or next(iter(VOCABULARIES[words["kind"]]))) for words in SECTIONS.values()}
    assert tried == {(kind, variant) for kind, variants in VOCABULARIES.items() for variant in variants}


def test_a_class_is_named_only_for_what_it_would_build(tmp_path: Path) -> None:
    """LlamaTokenizer builds its own splitter and drops a normalizer: files that differ there are read as they are written."""
    for name, change in {
        "llama": {"normalizer": {"type": "NFC"}},
        "bert": {"decoder": None},
        "t5": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
    }.items():
        altered = {**json.loads(trained(name).tokenizer_json), **change}
        save_tokenizer(Tokenizer.from_json(json.dumps(altered), trained(name).settings), tmp_path)
        assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
