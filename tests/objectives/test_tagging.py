"""Token classification against transformers' own loss and tokenization, and the property that micro-batches do not matter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import torch
from sklearn import metrics as sklearn_metrics
from tiny_examples import ENCODER, WORDS, assert_figures, assert_judged, model, opened, stored, tokenizer, whole_batch
from transformers import AutoModelForTokenClassification, AutoTokenizer, GPT2Tokenizer

from tfkit.errors import DataError, ModelError
from tfkit.objectives.objective import IGNORED
from tfkit.objectives.tagging import Tagging
from tfkit.recipe.schema.label_sections import TaggingSection
from tfkit.tokenizer import Tokenizer, save_tokenizer
from tfkit.tokenizer.joined_texts import encode_words

LABELS = ("B-animal", "I-animal", "O")
CONFIG = ENCODER | {"head": {"kind": "tags", "count": 3}}
TOKENIZER = tokenizer()
SECTION = TaggingSection(kind="tagging")


def sentences(count: int) -> list[dict[str, Any]]:
    """Return sentences of one to ten words, some of which are several pieces."""
    random = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        words = random.choice([*WORDS, "catmat", "Mats!", "x"], int(random.integers(1, 11))).tolist()
        rows.append({"tokens": words, "tags": random.choice(LABELS, len(words)).tolist()})
    return rows


ROWS = sentences(16)


def tagging(codec: Tokenizer = TOKENIZER, length: int = 24) -> Tagging:
    return Tagging(SECTION, codec, LABELS, length)


def labels_of(ids: list[int | None], tags: list[str]) -> list[int]:
    """Return each word's tag at the word's first piece, aligned as in transformers' documentation."""
    firsts = [word is not None and word != before for before, word in zip([None, *ids[:-1]], ids, strict=True)]
    return [LABELS.index(tags[word]) if first and word is not None else IGNORED for first, word in zip(firsts, ids, strict=True)]


def test_ids_labels_and_loss_are_those_of_transformers(tmp_path: Path) -> None:
    objective, ours = tagging(length=12), model(CONFIG).eval()
    found = stored(tmp_path, ROWS, objective)
    assert 0 < found.truncated < 16
    batch = whole_batch(found, objective)
    theirs = opened(tmp_path / "model", AutoModelForTokenClassification, ours, TOKENIZER)
    codec = AutoTokenizer.from_pretrained(tmp_path / "model")
    words = [row["tokens"] for row in ROWS]
    padded = codec(words, is_split_into_words=True, truncation=True, max_length=12, padding=True, return_tensors="pt")
    assert batch.input_ids.tolist() == padded["input_ids"].tolist()
    assert batch.padding_mask.tolist() == padded["attention_mask"].bool().tolist()
    assert batch.labels.tolist() == [labels_of(padded.word_ids(i), row["tags"]) for i, row in enumerate(ROWS)]
    with torch.no_grad():
        output = theirs(**padded, labels=batch.labels)
    assert_judged(ours, objective, batch, output.loss, output.logits, "accuracy")


AS_THEY_ARE = [("wordpiece", None, False), ("bpe_eow", None, False), ("unigram", None, False), ("bpe_byte_fallback", "llama", False)]
SPACED = [("bpe_byte_fallback", "gemma", True), *(("byte_bpe", variant, True) for variant in ("gpt2", "llama3", "smollm2"))]


@pytest.mark.parametrize(("kind", "variant", "spaced"), [*AS_THEY_ARE, *SPACED])
def test_words_give_the_ids_that_transformers_gives(tmp_path: Path, kind: str, variant: str | None, spaced: bool) -> None:
    """Where pieces include the space before a word, each word is tokenized with a space before it; elsewhere as it is."""
    codec = tokenizer(kind, vocab_size=400, variant=variant)
    save_tokenizer(codec, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for length in (64, 7):
        for row, (ids, words, truncated) in zip(ROWS, encode_words(codec, [row["tokens"] for row in ROWS], length), strict=True):
            handed = [f" {word}" for word in row["tokens"]] if spaced else row["tokens"]
            found = theirs(handed, is_split_into_words=True, truncation=True, max_length=length)
            assert (ids, words) == (found["input_ids"], found.word_ids())
            assert truncated == (len(theirs(handed, is_split_into_words=True)["input_ids"]) > length)
            if length == 64 and kind in ("byte_bpe", "bpe_byte_fallback"):  # the words do not run together: the sentence was tokenized
                assert codec.decode(ids, skip_special_tokens=True).strip() == " ".join(row["tokens"])


def test_words_of_gpt2_are_those_of_its_class_with_add_prefix_space(tmp_path: Path) -> None:
    codec = tokenizer("byte_bpe", vocab_size=400, add_bos=False)
    codec.backend.model.save(str(tmp_path))
    theirs = GPT2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), add_prefix_space=True)
    wanted = [theirs(row["tokens"], is_split_into_words=True) for row in ROWS]
    found = encode_words(codec, [row["tokens"] for row in ROWS], 64)
    assert [(ids, words) for ids, words, _ in found] == [(one["input_ids"], one.word_ids()) for one in wanted]


def test_a_word_that_gives_no_token_is_read_as_the_unknown_one() -> None:
    """This also holds at both ends of a sentence, and at a truncation; a tokenizer of bytes has no such word."""
    for words in (["the", "\u200b", "cat"], ["\u200b", "the", ""], ["\u200b"]):
        [(ids, places, truncated)] = encode_words(TOKENIZER, [words], 24)
        assert [place for place in places if place is not None] == [*range(len(words))]
        are_unknown = [ids[places.index(number)] == TOKENIZER.unk_id for number in range(len(words))]
        assert are_unknown == [not word.strip("\u200b") for word in words]
        assert not truncated
    [(ids, places, truncated)] = encode_words(TOKENIZER, [["the", "\u200b", *["cat"] * 30]], 6)
    assert (len(ids), truncated, places[:4]) == (6, True, [None, 0, 1, 2])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["the", "cat"], "tags": ["O"]}, r"rows.jsonl:17: 2 words, but 1 tags"),
        ({"tokens": [], "tags": []}, r"rows.jsonl:17: there are no words"),
        ({"tokens": ["the"], "tags": ["I-plant"]}, r"rows.jsonl:17: the label 'I-plant' is none of B-animal, I-animal, O"),
        ({"tokens": "the cat", "tags": ["O"]}, r"rows.jsonl:17: 2 words, but 1 tags"),  # words may be one text
        ({"tokens": 7, "tags": ["O"]}, r"rows.jsonl:17: column 'tokens' holds int, not "),
    ],
)
def test_rows_that_cannot_be_tagged_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        stored(tmp_path, [*ROWS, row], tagging())


def test_a_context_without_room_for_a_word_is_refused() -> None:
    with pytest.raises(ModelError, match=r"rows of 2 tokens have no room for text and the special tokens; allow longer rows"):
        tagging(length=2)


def tagger(*labels: str) -> Any:
    objective = tagging()
    objective.labels, objective._numbers = labels, {label: number for number, label in enumerate(labels)}
    return objective


def test_figures_of_entities_are_those_of_seqeval() -> None:
    """Entities are whole names of a type, in IOB; `classes` has the metrics of single tags."""
    objective, random = tagger("B-animal", "B-place", "I-animal", "I-place", "O"), np.random.default_rng(2)
    right, predicted = ([random.choice(objective.labels, 9).tolist() for _ in range(30)] for _ in range(2))
    found = objective.label_metrics([{"tags": one, "predicted": other} for one, other in zip(right, predicted, strict=True)])
    theirs = seqeval.metrics.classification_report(right, predicted, output_dict=True, zero_division=0)
    assert_figures(found["entities"], theirs, "animal", "place")
    flat = [[tag for row in side for tag in row] for side in (right, predicted)]
    assert_figures(found["classes"], sklearn_metrics.classification_report(*flat, output_dict=True, zero_division=0), *objective.labels)
    assert sum(count for row in found["confusion"].values() for count in row.values()) == 270
    assert tagger("ADJ", "NOUN").label_metrics([{"tags": ["ADJ"], "predicted": ["NOUN"]}]).keys() == {"classes", "confusion"}
