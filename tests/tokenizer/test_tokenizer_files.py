import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from tfkit.tokenizer import END_OF_TEXT, load_tokenizer, save_tokenizer, train_byte_bpe
from tfkit.tokenizer.entries import token_bytes
from tfkit.tokenizer.tokenizer_files import UNLIMITED

TEXTS = [
    "",
    "plain words, with  two spaces",
    "line\nline\r\n\n\ttab",
    "Grüße 世界 🦊 e\u0301 \u202e \x00",
    f"{END_OF_TEXT}at the start, {END_OF_TEXT} inside",
    " leading space , and a . before space n't",
]
CORPUS = ["plain words and code(x) = 12\n" * 30]


def auto_tokenizer(folder: Path):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


def assert_same_as_transformers(folder: Path) -> None:
    ours, theirs = load_tokenizer(folder), auto_tokenizer(folder)
    assert ours.encode_texts(TEXTS) == [theirs(text)["input_ids"] for text in TEXTS]
    for ids in ours.encode_texts(TEXTS):
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours.size == max(theirs.get_vocab().values()) + 1


@pytest.mark.parametrize("add_bos", [True, False])
def test_transformers_reads_what_was_trained(tmp_path: Path, add_bos: bool) -> None:
    tokenizer = train_byte_bpe(CORPUS, 300, add_bos)
    save_tokenizer(tokenizer, tmp_path)
    assert_same_as_transformers(tmp_path)
    assert auto_tokenizer(tmp_path).model_max_length == UNLIMITED
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint() == tokenizer.fingerprint()


def foreign_tokenizer() -> Backend:
    """A Llama-like one: byte fallback, Metaspace, a bos template, a hole before the added token, cut at 7 by a past caller."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}, "▁": 259, "a": 260, "▁a": 261}
    backend = Backend(models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", END_OF_TEXT)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    backend.enable_truncation(7)
    backend.enable_padding(length=9)
    return backend


def write_foreign(folder: Path, config: dict[str, object], special: dict[str, object] | None = None) -> None:
    foreign_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    if special is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))


def test_a_foreign_tokenizer_reads_special_tokens_in_text_as_transformers_does(tmp_path: Path) -> None:
    write_foreign(tmp_path, {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "</s>", "pad_token": None})
    assert_same_as_transformers(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.prefix, tokenizer.suffix) == ((1,), (2,))
    assert tokenizer.backend.token_to_id(END_OF_TEXT) in tokenizer.encode_texts([f"a {END_OF_TEXT}"])[0]
    assert [token_bytes(tokenizer, i) for i in (3, 260, 261)] == [1, 1, 1]


def test_saving_what_was_loaded_keeps_every_byte_and_setting(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_foreign(
        tmp_path / "a",
        {"eos_token": "</s>", "model_max_length": 77, "padding_side": "left", "auto_map": {"AutoTokenizer": "x.Y"}},
        {"bos_token": "<s>", "pad_token": {"content": "</s>"}},
    )
    (tmp_path / "a/chat_template.jinja").write_bytes(b"{{ bos_token }}\r\n{{ messages }}")
    tokenizer = load_tokenizer(tmp_path / "a")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    save_tokenizer(tokenizer, tmp_path / "b")
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = json.loads((tmp_path / "b/tokenizer_config.json").read_text())
    assert config["model_max_length"] == 77
    assert config["padding_side"] == "left"
    assert "auto_map" not in config
    assert json.loads((tmp_path / "b/special_tokens_map.json").read_text()) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
    }
    assert_same_as_transformers(tmp_path / "b")


def test_the_chat_template_of_a_config_is_kept(tmp_path: Path) -> None:
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    for template, expected in (("X", "X"), (named, "D"), (None, None)):
        write_foreign(tmp_path, {"chat_template": template})
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.chat_template == expected


def test_a_folder_without_a_tokenizer_gives_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None
