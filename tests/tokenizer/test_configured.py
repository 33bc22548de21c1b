"""Folders whose tokenizer_config.json says more than tokenizer.json: transformers' ids for every text, or refused with the key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from tfkit.errors import ModelError
from tfkit.tokenizer import load_tokenizer, pipelines, save_tokenizer

TEXTS = [
    "The Cat é 中文 sat",
    "  lead and trail ",
    "a <x> b<y>c",
    "a[MASK]b </s> <s> <p2>a",
    "Ünïcode\u0301 naïve",
    "x <|endoftext|> y [MASK] <unk> z <x>  <newpad> q <m2><newbos>",
    "",
    " ",
    "\n\tx\u3000y\u200b",
    "🙂한 தமிழ்",
]
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéÉüÜï中文</>[]▁|"


def with_tokens(backend: Backend, names: list[str], template: str | None = None) -> Backend:
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    if template is not None:
        used = [(name, backend.token_to_id(name)) for name in names if name in template]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return backend


def bert() -> tuple[Backend, dict[str, str]]:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries = [*names, *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]
    backend = pipelines.wordpiece({entry: i for i, entry in enumerate(entries)}, pipelines.bert_normalizer())
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names, strict=True))
    return with_tokens(backend, names, "[CLS] $A [SEP]"), roles


def byte_level(splitter: str, template: str | None = None) -> tuple[Backend, dict[str, str]]:
    entries = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = pipelines.byte_bpe({entry: i for i, entry in enumerate(entries)}, [], pipelines.BYTE_SPLITTERS[splitter])
    return with_tokens(backend, entries[:1], template), {"bos_token": entries[0], "eos_token": entries[0]}


def byte_fallback(build: Callable[..., Backend], names: dict[str, str]) -> tuple[Backend, dict[str, str]]:
    entries = [*names.values(), *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS]
    backend = build({entry: i for i, entry in enumerate(entries)}, [])
    return with_tokens(backend, list(names.values()), f"{names['bos_token']} $A"), names


def t5() -> tuple[Backend, dict[str, str]]:
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    backend = pipelines.unigram([*((name, 0.0) for name in roles.values()), *((character, -3.0) for character in CHARACTERS)])
    return with_tokens(backend, list(roles.values()), "$A </s>"), roles


LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
GEMMA = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
KINDS: dict[str, tuple[Callable[[], tuple[Backend, dict[str, str]]], tuple[str, ...]]] = {
    "bert": (bert, ("BertTokenizer", "PreTrainedTokenizerFast")),
    "gpt2": (lambda: byte_level("gpt2"), ("GPT2TokenizerFast", "PreTrainedTokenizerFast")),
    "llama 3": (lambda: byte_level("llama3", "<|endoftext|> $A"), ("PreTrainedTokenizerFast",)),
    "llama": (lambda: byte_fallback(pipelines.llama_bpe, LLAMA), ("LlamaTokenizer",)),
    "gemma": (lambda: byte_fallback(pipelines.gemma_bpe, GEMMA), ("GemmaTokenizer",)),
    "t5": (t5, ("T5Tokenizer",)),
}


def added(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, **dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False), "special": True, **flags}


def files(change: str, backend: Backend) -> dict[str, dict[str, Any]]:
    """The file that a change is written to, and its content."""
    size = backend.get_vocab_size()
    last, token = sorted(backend.get_added_tokens_decoder().items())[-1]
    config: dict[str, dict[str, Any]] = {
        "nothing": {},
        "cased": {"do_lower_case": False},
        "accents": {"strip_accents": False},
        "no chinese": {"tokenize_chinese_chars": False},
        "prefix space": {"add_prefix_space": True},
        "no prefix space": {"add_prefix_space": False},
        "bos": {"add_bos_token": True},
        "no bos": {"add_bos_token": False},
        "eos": {"add_eos_token": True},
        "no eos": {"add_eos_token": False},
        "legacy": {"legacy": True},
        "special": {"added_tokens_decoder": {str(size): added("<x>")}},
        "two": {
            "added_tokens_decoder": {str(size + 1): added("<y>"), str(size): added("<x>", special=False, normalized=True, lstrip=True)}
        },
        "gap": {"added_tokens_decoder": {str(size + 3): added("<x>")}},
        "flags": {"added_tokens_decoder": {str(last): added(token.content, lstrip=True)}},
        "more": {"additional_special_tokens": ["<x>", "<y>"]},
        "pad": {"pad_token": "<newpad>"},
        "pad in full": {"pad_token": {"__type": "AddedToken", **added("<newpad>", lstrip=True)}},
        "roles": {"pad_token": "<p2>", "bos_token": "<newbos>", "mask_token": "<m2>"},
    }
    if change == "map":
        return {"special_tokens_map.json": {"mask_token": "<x>"}}
    if change == "names":
        return {"added_tokens.json": {"<x>": size, "<newpad>": size + 1}, "tokenizer_config.json": {"pad_token": "<newpad>"}}
    return {"tokenizer_config.json": config[change]}


CHANGES = [
    *("nothing", "cased", "accents", "no chinese", "prefix space", "no prefix space", "bos", "no bos", "eos", "no eos", "legacy"),
    *("special", "two", "gap", "flags", "more", "pad", "pad in full", "roles", "map", "names"),
]
REFUSED = {  # the key that is named; of the others the ids are those of transformers
    **{("bert", "BertTokenizer", change): key for change, key in (("cased", "do_lower_case"), ("accents", "strip_accents"))},
    ("bert", "BertTokenizer", "no chinese"): "tokenize_chinese_chars",
    ("gpt2", "GPT2TokenizerFast", "prefix space"): "add_prefix_space",
    ("llama", "LlamaTokenizer", "no prefix space"): "add_prefix_space",
    ("gemma", "GemmaTokenizer", "more"): "additional_special_tokens",
    **{(kind, name, change): "added_tokens_decoder" for kind, (_, names) in KINDS.items() for name in names for change in ("gap", "flags")},
}


def write(folder: Path, kind: str, name: str, change: str) -> None:
    backend, roles = KINDS[kind][0]()
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    changed = files(change, backend)
    settings = {**roles, "tokenizer_class": name, **changed.pop("tokenizer_config.json", {})}
    for file, document in {**changed, "tokenizer_config.json": settings}.items():
        (folder / file).write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.sampled(9)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, names) in KINDS.items() for name in names])
def test_the_ids_are_those_of_transformers_or_the_folder_is_refused(tmp_path: Path, kind: str, name: str, change: str) -> None:
    write(tmp_path, kind, name, change)
    key = REFUSED.get((kind, name, change))
    if key is not None:
        with pytest.raises(ModelError, match=rf"{tmp_path}.*: {key} .*; (make the two agree|add it there)"):
            load_tokenizer(tmp_path)
        return
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode_texts(TEXTS) == [theirs(text)["input_ids"] for text in TEXTS]
    assert ours.size == len(theirs) or name in ("GemmaTokenizer", "T5Tokenizer")  # which have tokens of their own behind the others
    (tmp_path / "saved").mkdir()
    save_tokenizer(ours, tmp_path / "saved")
    again, saved = load_tokenizer(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.fingerprint() == ours.fingerprint()
    assert again.encode_texts(TEXTS) == ours.encode_texts(TEXTS) == [saved(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": True}])
def test_a_cased_vocabulary_is_refused_for_a_class_that_lowers_by_default(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path, "bert", "BertTokenizer", "cased")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode_texts(TEXTS) == [theirs(text)["input_ids"] for text in TEXTS]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **settings}))
    with pytest.raises(ModelError, match=r"tokenizer_config.json: do_lower_case is True.*, but tokenizer.json was made with False"):
        load_tokenizer(tmp_path)


def test_the_template_of_a_vocabulary_without_an_x_is_found(tmp_path: Path) -> None:
    names = ["[CLS]", "[SEP]"]
    bases = Backend(models.BPE({entry: number for number, entry in enumerate([*names, *"ACGT"])}, []))
    with_tokens(bases, names, "[CLS] $A [SEP]").save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode_texts(["GAT", "x", ""]) == [[0, 4, 2, 5, 1], [0, 1], [0, 1]]
