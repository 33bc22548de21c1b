"""BERT and DistilBERT, tiny, from the command line: pretrained, stopped and resumed to the same bits, and read by transformers."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import read_by
from tiny_runs import WORDS, Done, assert_same_bits, kept, pretrain, run_tfkit, strike, write_recipe
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from tfkit.hub import load

SIZES = {"encoder_layers": 2, "dim": 16, "num_heads": 2, "context_length": 24}
SETTINGS = ["tokenizer={kind: wordpiece, vocab_size: 200}", "training.steps=4", "training.log_every=1", "evaluation.every=2"]
BERT = {"model": {"preset": "bert-tiny"} | SIZES, "objective": {"kind": "masked_lm", "next_sentence": True, "short_rows": 0.3}}
DISTILBERT = {"model": {"preset": "distilbert-base"} | SIZES, "objective": {"kind": "masked_lm", "rarity": 0.7}}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of documents of several sentences."""
    random = np.random.default_rng(1)
    (tmp_path / "corpus").mkdir()
    for number in range(8):
        sentences = [" ".join(random.choice(WORDS, random.integers(3, 9))) for _ in range(40)]
        (tmp_path / "corpus" / f"{number}.txt").write_text(".\n".join(sentences), encoding="utf-8")
    return write_recipe(tmp_path, tmp_path / "corpus")


def words(sections: dict[str, Any]) -> list[str]:
    return [*(f"{name}={json.dumps(section)}" for name, section in sections.items()), *SETTINGS]


def fill(run: Path) -> Done:
    arguments = ["generate", "--from", str(run), "--prompt", "the cat [MASK] on", "--json", "--threads", "1", "carbon.enabled=false"]
    return run_tfkit(run.parent, arguments)


def test_bert_is_pretrained_resumed_and_read_by_transformers(tmp_path: Path, recipe: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    result = pretrain(whole, recipe, *words(BERT), "--json").exits(0).document
    metrics = {"loss", "perplexity", "accuracy", "mlm_loss", "next_sentence_loss", "next_sentence_accuracy"}
    assert result["evaluation"].keys() == metrics
    assert result["evaluation"]["loss"] == pytest.approx(result["evaluation"]["mlm_loss"] + result["evaluation"]["next_sentence_loss"])
    # Struck in the second micro-batch of step 3.
    pretrain(run, recipe, *words(BERT), "training.micro_batch_size=2", before=strike(signal.SIGTERM, 6)).exits(143)
    assert kept(run) == ["step-000003"]
    pretrain(run, recipe, *words(BERT), "training.micro_batch_size=2", "--resume").exits(0)
    other = tmp_path / "other"
    pretrain(other, recipe, *words(BERT), "training.micro_batch_size=2").exits(0)
    assert_same_bits(run, other, 4)
    folder = load(run).folder
    theirs = read_by(AutoModelForPreTraining, folder)
    assert type(theirs).__name__ == "BertForPreTraining"
    assert fill(run).exits(0).document["completion"].startswith("the cat ")


def test_distilbert_is_pretrained_and_read_by_transformers(tmp_path: Path, recipe: Path) -> None:
    run = tmp_path / "run"
    assert pretrain(run, recipe, *words(DISTILBERT), "--json").exits(0).document["evaluation"].keys() == {"loss", "perplexity", "accuracy"}
    theirs = read_by(AutoModelForMaskedLM, load(run).folder)
    assert type(theirs).__name__ == "DistilBertForMaskedLM"
    fill(run).exits(0)


def test_bert_without_next_sentences_has_no_head_for_them(tmp_path: Path, recipe: Path) -> None:
    run = tmp_path / "run"
    plain = BERT | {"objective": {"kind": "masked_lm", "masking": "static", "whole_words": True}}
    pretrain(run, recipe, *words(plain), before=strike(signal.SIGTERM, 2)).exits(143)
    pretrain(run, recipe, *words(plain), "--resume").exits(0)
    theirs = read_by(AutoModelForMaskedLM, load(run).folder)
    assert type(theirs).__name__ == "BertForMaskedLM"
    assert not any("seq_relationship" in name or "pooler" in name for name in load(run).model.state_dict())


REFUSED = {
    "tokenizer={kind: byte_bpe, vocab_size: 300}": "byte_bpe has no [CLS], [SEP] and [MASK]",
    "model.preset=gpt2": "the objective masked_lm trains encoders; this model has an encoder and a decoder",
    "model.head={kind: masked_lm, tied: true, next_sentence: false}": "objective.next_sentence is true, but next_sentence of the head is",
    "model.preset=distilbert-base": "set model.embedding.segments to 2",
    "objective.next_sentence=false": "short_rows is read only with next_sentence: true: remove it",
    "generation.prompts=[the cat]": "a model that is trained for masked_lm does not continue text; remove it",
    "objective.split=[0.8, 0.1, 0.2]": "the fractions sum to 1.1",
    "objective={kind: masked_lm, whole_words: true, rarity: 0.5}": "whole_words and rarity exclude each other",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_does_not_go_together_is_refused_before_anything_is_done(tmp_path: Path, recipe: Path, change: str) -> None:
    pretrain(tmp_path / "run", recipe, *words(BERT), change).refuses(2, REFUSED[change])


def test_held_out_text_without_a_row_is_refused_before_the_first_step(tmp_path: Path, recipe: Path) -> None:
    held_out = f"data.validation=[{{path: {recipe.parent / 'corpus' / '0.txt'}}}]"
    assert "step 1/" not in pretrain(tmp_path / "run", recipe, *words(BERT), held_out).exits(3, "there is 1 here").err


def test_one_document_has_no_random_next_sentence(tmp_path: Path, recipe: Path) -> None:
    pretrain(
        tmp_path / "run",
        recipe,
        *words(BERT),
        f"data.train.0.path={recipe.parent / 'corpus' / '0.txt'}",
        "data.validation=null",
        "evaluation.every=null",
    ).exits(3, "there is 1 here")
