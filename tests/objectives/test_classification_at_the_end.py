"""Classes predicted at the last token by decoders and T5, against transformers' own classifiers; pairs without a template."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_examples import batch_of, judged, model, opened, stored, texts, tokenizer
from tiny_files import read_json
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tfkit
from tfkit.errors import DataError
from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.objectives.classification import Classification
from tfkit.recipe import model_config
from tfkit.recipe.presets import task_head
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.recipe.schema.sections import ModelSection, Recipe
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.joined_texts import joins_pairs

LABELS = ("3", "1", "2")
TINY = {"dim": 24, "num_heads": 3, "hidden_dim": 48, "context_length": 40}
CASES = {
    "gpt2": ({"preset": "gpt2", "decoder_layers": 2, **TINY}, tokenizer("byte_bpe")),
    "llama": ({"preset": "llama-7b", "decoder_layers": 2, "head_dim": 8, **TINY}, tokenizer("bpe_byte_fallback", vocab_size=400)),
    "t5": ({"preset": "t5-small", "encoder_layers": 2, "decoder_layers": 2, "head_dim": 8, **TINY}, tokenizer("unigram")),
}
ROWS = [{"text": text, "label": LABELS[i % 3]} for i, text in enumerate(texts(16))]
PAIRS = [row | {"pair": other} for row, other in zip(ROWS, texts(16, seed=2), strict=True)]


def head(section: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Return the head that a recipe for classification gives a preset."""
    given = {"model": section, "data": {"train": [{"path": "x"}]}, "objective": {"kind": "classification"}, "training": {"steps": 1}}
    return task_head(Recipe.model_validate(given | sections), 3)


def described(section: dict[str, Any], codec: Tokenizer) -> ModelConfig:
    return model_config(ModelSection.model_validate(section), codec.size, head(section))


def classification(codec: Tokenizer, config: ModelConfig, length: int = 40) -> Classification:
    both = config.encoder_layers > 0 and config.decoder_layers > 0
    return Classification(ClassificationSection(kind="classification"), codec, LABELS, length, codec.start_id if both else None)


@pytest.mark.parametrize(("preset", "kind"), [("olmoe-1b-7b", "byte_bpe"), ("transformer-2017-base", "unigram")])
def test_a_decoder_of_a_family_without_a_class_for_texts_is_read_at_the_end_too(preset: str, kind: str) -> None:
    assert head({"preset": preset}, tokenizer={"kind": kind}) == {"kind": "classes", "count": 3, "pool": "last", "bias": True}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_a_padded_batch_is_that_of_transformers(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    section, codec = CASES[name]
    config = described(section, codec)
    ours, objective, folder = model(config.model_dump() | {"init": {"std": 0.3}}).eval(), classification(codec, config), tmp_path / "model"
    batch = batch_of(tmp_path, rows, objective)
    theirs = opened(folder, AutoModelForSequenceClassification, ours, codec, labels=LABELS)
    assert tfkit.load(folder).labels == LABELS
    assert theirs.config.id2label == dict(enumerate(LABELS))
    read = AutoTokenizer.from_pretrained(folder)
    encoded = [read(row["text"], row.get("pair"), truncation=True, max_length=40)["input_ids"] for row in rows]
    assert [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.padding_mask, strict=True)] == encoded
    padded = torch.tensor([ids + [theirs.config.pad_token_id] * (max(map(len, encoded)) - len(ids)) for ids in encoded])
    with torch.no_grad():
        output = theirs(input_ids=padded, attention_mask=batch.padding_mask.long(), labels=batch.labels)
        torch.testing.assert_close(ours(**batch.inputs()).logits, output.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(judged(ours, objective, batch)[0], output.loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("room", [40, 11])
def test_a_pair_without_a_template_is_joined_by_the_end_of_a_text(tmp_path: Path, room: int) -> None:
    codec = tokenizer("byte_bpe", add_bos=False)
    assert not joins_pairs(codec)
    batch = batch_of(tmp_path, PAIRS, classification(codec, described(CASES["gpt2"][0], codec), room))
    for row, ids, mask in zip(PAIRS, batch.input_ids, batch.padding_mask, strict=True):
        first, second = codec.encode_texts([row["text"], row["pair"]])
        while len(first) + len(second) > room - 1:
            (second if len(second) >= len(first) else first).pop()
        assert ids[mask].tolist() == [*first, codec.eos_id, *second]


def test_a_pair_that_nothing_can_join_is_refused_with_the_remedy(tmp_path: Path) -> None:
    codec = tokenizer("bpe_eow")
    with pytest.raises(DataError, match=r"no token to put between .* columns: \{text: '\{premise\} => \{hypothesis\}'\}"):
        batch_of(tmp_path, PAIRS, classification(codec, described(CASES["gpt2"][0], codec)))


def test_a_text_that_gives_no_token_is_skipped_and_counted(tmp_path: Path) -> None:
    """Without a template such a row has no token at all; with a template, it has only the tokens that every text has."""
    framed = Classification(ClassificationSection(kind="classification"), tokenizer("wordpiece"), LABELS, 24, None)
    for row in ({"text": " ", "label": "1"}, {"text": "", "pair": " \n", "label": "1"}):
        with pytest.raises(DataError, match=r"every row is bad; the first is .*rows.jsonl:1: the text gives no token; remove the row"):
            stored(tmp_path, [row], framed)
    codec = tokenizer("byte_bpe", add_bos=False)
    found = stored(tmp_path, [ROWS[0], {"text": "", "label": "1"}], classification(codec, described(CASES["gpt2"][0], codec)))
    assert (len(found), found.skipped["no tokens"].rows) == (1, 1)


def test_padding_of_a_classifier_is_written_where_its_tokenizer_can_say_it(tmp_path: Path) -> None:
    """transformers finds the last token by the padding id, and refuses batches without one. Every token of GPT's may end a text."""
    for kind, wanted in (("byte_bpe", 0), ("bpe_eow", None)):
        codec = tokenizer(kind)
        config = described(CASES["gpt2"][0], codec)
        folder = tmp_path / kind
        folder.mkdir()
        save_model(folder, config, model(config.model_dump()).state_dict(), codec)
        written = read_json(folder / "config.json")
        assert written["pad_token_id"] == wanted
        tfkit.load(folder).save(tmp_path / f"{kind} again")
        assert read_json(tmp_path / f"{kind} again" / "config.json") == written
