"""Encoders as they are found, tuned without a recipe: decided, trained, predicted, listed for the Hub; transformers answers the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import run_tfkit
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tfkit.hub import find_checkpoint
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, save_tokenizer, train_tokenizer

TEXTS = [
    f"the film was {word} and the {noun}" for word in ("lovely", "warm", "dull", "cold") for noun in ("book", "play", "night", "story")
]
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 60}
SIZES |= {"initializer_range": 0.2}


def _roberta(codec: Tokenizer) -> PreTrainedModel:
    return RobertaForMaskedLM(RobertaConfig(vocab_size=codec.size, type_vocab_size=1, **SIZES))


def _modernbert(codec: Tokenizer) -> PreTrainedModel:
    """Its class writes the ids of the released vocabulary, which are beyond this one."""
    return ModernBertForMaskedLM(ModernBertConfig(vocab_size=codec.size, pad_token_id=codec.pad_id, local_attention=4, **SIZES))


FOUND: dict[str, tuple[Any, dict[str, Any]]] = {
    "roberta": (_roberta, {"kind": "byte_bpe", "variant": "roberta"}),
    "modernbert": (_modernbert, {"kind": "wordpiece"}),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_labelled_csv_tunes_it(tmp_path: Path, name: str) -> None:
    make, section = FOUND[name]
    codec = train_tokenizer(TokenizerSection(vocab_size=320, **section), TEXTS * 20)
    make(codec).save_pretrained(tmp_path / "found")
    save_tokenizer(codec, tmp_path / "found")
    rows = [f"{text},{'good' if 'lovely' in text or 'warm' in text else 'bad'}" for text in TEXTS * 3]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    (tmp_path / "new.csv").write_text("\n".join(["text", *TEXTS, ""]), encoding="utf-8")
    words = ["--threads", "1", "carbon.enabled=false"]
    changes = ["training.trial_rates=null", "training.epochs=2"]
    found, run, data = tmp_path / "found", tmp_path / "run", tmp_path / "rows.csv"
    done = run_tfkit(tmp_path, ["finetune", "--from", found, "--data", data, "--run", run, *words, *changes])
    assert done.code == 0, done.err
    predicted = run_tfkit(tmp_path, ["predict", "--from", run, "--data", tmp_path / "new.csv", *words])
    assert predicted.code == 0, predicted.err
    answers = [json.loads(line) for line in predicted.out.splitlines()]
    pushed = run_tfkit(tmp_path, ["push", run, "someone/name", "--dry-run"])
    assert pushed.code == 0, pushed.err
    assert "model.safetensors" in pushed.out
    checkpoint = find_checkpoint(run)
    theirs, tokenizer = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    assert theirs.config.model_type == name
    with torch.no_grad():
        probabilities = theirs(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(-1)
    assert [theirs.config.id2label[int(row.argmax())] for row in probabilities] == [answer["prediction"] for answer in answers]
    assert [answer["probability"] for answer in answers] == pytest.approx(probabilities.amax(-1).tolist(), abs=1e-4)
