"""tfkit pretrain with each kind of tokenizer: two steps, a checkpoint that transformers opens, and what the other commands make of it."""

import json
from pathlib import Path

import pytest
from tiny_runs import pretrain, records, run_tfkit

from tfkit.recipe.schema.vocabularies import VOCABULARIES
from tfkit.tokenizer import load_tokenizer

KINDS = [(kind, variant) for kind, variants in VOCABULARIES.items() for variant in variants]
TEXTS = ["the cat", "  The CAT sat on Straße 12;\n\n🙂 世界", "", "[MASK] <s> <extra_id_3>"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("kind", "variant"), KINDS)
def test_two_steps_with_each_kind(base: Path, kind: str, variant: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    run = base / f"{kind}-{variant}"
    section = f"tokenizer={{kind: {kind}, vocab_size: 320}}" if variant is None else f"tokenizer={{kind: {kind}, variant: {variant}}}"
    words = [section, "tokenizer.vocab_size=320", "training.steps=2", "training.log_every=1", "evaluation.every=2"]
    pretrain(run, base / "tiny.yaml", *words).exits(0)

    checkpoint = run / "checkpoints" / "step-000002"
    ours, theirs = load_tokenizer(checkpoint), transformers.AutoTokenizer.from_pretrained(checkpoint)
    assert ours.encode_texts(TEXTS) == [theirs(text)["input_ids"] for text in TEXTS]
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == ours.size == len(theirs)
    assert [config[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [ours.bos_id, ours.eos_id, ours.pad_id]
    scores = next(record["evaluation"] for record in records(run) if "evaluation" in record)
    # Every byte of the texts is in the denominator but those of first tokens that nothing comes before.
    assert 0 < scores["bits_per_byte"] < 16

    run_tfkit(base, ["evaluate", "--from", str(run), "--threads", "1", "--json"]).exits(0)
    written = run_tfkit(base, ["generate", "--from", str(run), "--prompt", "the cat", "--max-new-tokens", "5", "--threads", "1"]).exits(0)
    assert "the cat" in written.out


def test_less_text_than_entries_is_said(base: Path) -> None:
    words = ["tokenizer={kind: wordpiece, vocab_size: 5000}", "training.steps=2"]
    pretrain(base / "few", base / "tiny.yaml", *words).exits(0, "tokenizer entries, not tokenizer.vocab_size 5,000")
