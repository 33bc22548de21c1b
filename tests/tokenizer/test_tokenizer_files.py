"""Folders of other libraries' making: transformers' ids for every text, or refused with the key, and kept on saving."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from beside_transformers import agreed, assert_same, assert_same_roles
from hypothesis import given, settings
from test_kinds import PROBES, any_text, trained
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from tfkit.errors import ModelError
from tfkit.tokenizer import load_tokenizer, pipelines
from tfkit.tokenizer.tokenizer import token_bytes

TEXTS = [*PROBES, "<|endoftext|>at the start, <|endoftext|> inside", " leading space , and a . before space n't"]


def foreign_tokenizer() -> Backend:
    """A Llama-like one: byte fallback, Metaspace, a bos template, a hole before the added token, cut at 7 by a past caller."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}, "▁": 259, "a": 260, "▁a": 261}
    backend = Backend(models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<|endoftext|>")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    backend.enable_truncation(7)
    backend.enable_padding(length=9)
    return backend


def write_foreign(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    foreign_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return folder


def test_special_tokens_in_a_text_are_read_as_by_transformers(tmp_path: Path) -> None:
    roles = {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "</s>", "pad_token": None}
    tokenizer, both = agreed(write_foreign(tmp_path / "a", **roles), tmp_path / "b", TEXTS)
    for theirs in both:
        assert_same_roles(tokenizer, theirs)  # the padding of tokenizer.json names no pad_token if the config has null
        assert tokenizer.size == max(theirs.get_vocab().values()) + 1
    assert (tokenizer.prefix, tokenizer.suffix) == ((1,), (2,))
    assert tokenizer.backend.token_to_id("<|endoftext|>") in tokenizer.encode_texts(["a <|endoftext|>"])[0]
    assert [token_bytes(tokenizer, i) for i in (3, 260, 261)] == [1, 1, 1]


def test_saving_what_was_loaded_keeps_every_byte_and_setting(tmp_path: Path) -> None:
    stated = {"eos_token": "</s>", "model_max_length": 77, "padding_side": "left"}
    folder, again = write_foreign(tmp_path / "a", **stated, auto_map={"AutoTokenizer": "x.Y"}), tmp_path / "b"
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "pad_token": {"content": "</s>"}}))
    (folder / "chat_template.jinja").write_bytes(b"{{ bos_token }}\r\n{{ messages }}")
    tokenizer, (_, theirs) = agreed(folder, again, TEXTS)
    assert_same_roles(tokenizer, theirs)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
    config = json.loads((again / "tokenizer_config.json").read_text())
    assert config.items() >= stated.items()
    assert "auto_map" not in config
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    assert json.loads((again / "special_tokens_map.json").read_text()) == names


def test_the_chat_template_of_a_config_is_kept(tmp_path: Path) -> None:
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    for number, (template, expected) in enumerate((("X", "X"), (named, "D"), (None, None))):
        assert load_tokenizer(write_foreign(tmp_path / str(number), chat_template=template)).chat_template == expected


def test_a_folder_without_a_tokenizer_gives_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


MARKED = [
    *("", " ", "  lead and trail ", "The Cat é 中文 sat", "Ünïcode\u0301 naïve", "\n\tx\u3000y\u200b", "🙂한 தமிழ்"),
    *("a <x> b<y>c", "a[MASK]b </s> <s> <p2>a", "x <|endoftext|> y [MASK] <unk> z <x>  <newpad> q <m2><newbos>"),
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


OPTIONS = {"cased": "do_lower_case", "accents": "strip_accents", "no chinese": "tokenize_chinese_chars"}
OPTIONS |= {"no prefix space": "add_prefix_space", "no bos": "add_bos_token", "no eos": "add_eos_token"}


def changed_files(backend: Backend) -> dict[str, dict[str, dict[str, Any]]]:
    """For each change: the files that it is written to, and their content."""
    size = backend.get_vocab_size()
    last, token = sorted(backend.get_added_tokens_decoder().items())[-1]
    two = {str(size + 1): added("<y>"), str(size): added("<x>", special=False, normalized=True, lstrip=True)}
    decoders = {"special": {str(size): added("<x>")}, "two": two, "gap": {str(size + 3): added("<x>")}}
    decoders["flags"] = {str(last): added(token.content, lstrip=True)}
    config: dict[str, dict[str, Any]] = {change: {option: False} for change, option in OPTIONS.items()}
    config |= {change.removeprefix("no "): {option: True} for change, option in OPTIONS.items() if option.startswith("add_")}
    config |= {change: {"added_tokens_decoder": tokens} for change, tokens in decoders.items()}
    config |= {"nothing": {}, "legacy": {"legacy": True}, "more": {"additional_special_tokens": ["<x>", "<y>"]}}
    config |= {"pad": {"pad_token": "<newpad>"}, "pad in full": {"pad_token": {"__type": "AddedToken", **added("<newpad>", lstrip=True)}}}
    config |= {"roles": {"pad_token": "<p2>", "bos_token": "<newbos>", "mask_token": "<m2>"}}
    names = {"added_tokens.json": {"<x>": size, "<newpad>": size + 1}, "tokenizer_config.json": {"pad_token": "<newpad>"}}
    found = {change: {"tokenizer_config.json": content} for change, content in config.items()}
    return found | {"map": {"special_tokens_map.json": {"mask_token": "<x>"}}, "names": names}


CHANGES = tuple(changed_files(t5()[0]))
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
    changed = changed_files(backend)[change]
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
    ours, both = agreed(tmp_path, tmp_path / "saved", MARKED)
    assert ours.size == len(both[0]) or name in ("GemmaTokenizer", "T5Tokenizer")  # which have tokens of their own behind the others


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": True}])
def test_a_cased_vocabulary_is_refused_for_a_class_that_lowers_by_default(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path, "bert", "BertTokenizer", "cased")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    agreed(tmp_path, tmp_path / "saved", MARKED)
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


Entries = dict[str, Any]


def entries(name: str) -> Entries:
    """The vocabulary, and the merges if it has any, of a tokenizer that was trained here."""
    model = json.loads(trained(name).tokenizer_json)["model"]
    merges = {"merges": [tuple(merge) for merge in model["merges"]]} if "merges" in model else {}
    return {"vocab": [tuple(piece) for piece in model["vocab"]] if isinstance(model["vocab"], list) else model["vocab"], **merges}


# The tokenizer's class with its options, and whose vocabulary it gets.
FOREIGN: dict[str, tuple[str, Callable[[Entries], Any]]] = {
    "bert": ("bert", lambda words: transformers.BertTokenizer(**words)),
    "bert cased": ("bert cased", lambda words: transformers.BertTokenizer(**words, do_lower_case=False)),
    "bert without Chinese": ("bert", lambda words: transformers.BertTokenizer(**words, tokenize_chinese_chars=False)),
    "distilbert": ("bert", lambda words: transformers.DistilBertTokenizer(**words)),
    "gpt": ("gpt", lambda words: transformers.OpenAIGPTTokenizer(**words)),
    "gpt2": ("gpt2", lambda words: transformers.GPT2Tokenizer(**words)),
    "gpt2 with a pad": ("gpt2", lambda words: transformers.GPT2Tokenizer(**words, pad_token="<|pad|>")),
    "gpt2 with a space first": ("gpt2", lambda words: transformers.GPT2Tokenizer(**words, add_prefix_space=True)),
    "t5": ("t5", lambda words: transformers.T5Tokenizer(**words)),
    "llama": ("llama", lambda words: transformers.LlamaTokenizer(**words)),
    "llama with both": ("llama", lambda words: transformers.LlamaTokenizer(**words, add_bos_token=True, add_eos_token=True)),
    "llama old": ("llama", lambda words: transformers.LlamaTokenizer(**words, legacy=True)),
    "llama without a space": ("llama", lambda words: transformers.LlamaTokenizer(**words, add_prefix_space=False)),
    "gemma": ("gemma", lambda words: transformers.GemmaTokenizer(**words, add_bos_token=True)),
    "smollm2": ("smollm2", lambda words: transformers.PreTrainedTokenizerFast(tokenizer_object=trained("smollm2").backend)),
    "llama3": ("llama3", lambda words: transformers.PreTrainedTokenizerFast(tokenizer_object=trained("llama3").backend)),
}


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", FOREIGN)
def test_what_transformers_saves_has_the_same_ids_here(name: str, tmp_path: Path) -> None:
    source, make = FOREIGN[name]
    make(entries(source)).save_pretrained(tmp_path / "made")
    ours, both = agreed(tmp_path / "made", tmp_path / "again", PROBES, [("the fox", "it's")])
    for theirs in both:
        assert_same_roles(ours, theirs)

    @given(any_text)
    @settings(deadline=None, max_examples=60)
    def random(text: str) -> None:
        for theirs in both:
            assert_same(ours, theirs, text)

    random()
