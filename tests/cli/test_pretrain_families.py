"""Families, tiny, through the real commands: trained, stopped, resumed to the same bits, read by transformers; and schedules."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import edit_config, read_by, read_json, receipt, write_rows
from tiny_runs import WORDS, assert_same_bits, kept, pretrain, records, run_here, spoil, strike, write_recipe
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForSeq2SeqLM, AutoTokenizer

from tfkit.hub import load

SIZES = {"dim": 16, "num_heads": 2, "context_length": 24}
DECODER, ENCODER = SIZES | {"decoder_layers": 2}, SIZES | {"encoder_layers": 2}
BOTH = DECODER | ENCODER | {"hidden_dim": 36}
TRANSLATED = [("the", "le"), ("a", "un"), ("cat", "chat"), ("dog", "chien"), ("sat", "assis"), ("on", "sur"), ("mat", "tapis")]
TRANSLATED += [("big", "grand"), ("ran", "court")]
BERT = {"model": ENCODER | {"preset": "bert-tiny"}, "tokenizer": {"kind": "wordpiece", "vocab_size": 200}}
T5 = {"model": BOTH | {"preset": "t5-small", "head_dim": 6}, "tokenizer": {"kind": "unigram", "vocab_size": 200}}
T5 |= {"generation": {"prompts": ["the cat"], "max_new_tokens": 4}}
TRANSLATION = {"model": BOTH | {"preset": "transformer-2017-base"}, "generation": T5["generation"]}
TRANSLATION |= {"tokenizer": {"kind": "bpe_byte_fallback", "variant": "translation", "vocab_size": 320}}
TRANSLATION |= {"data": {"train": [{"path": "rows.jsonl", "columns": {"source": "to French: {en}"}}], "validation": 0.3}}
RECIPES: dict[str, dict[str, Any]] = {  # the sections that differ
    "gpt": {"model": DECODER | {"preset": "gpt"}},
    "gpt3": {"model": DECODER | {"preset": "gpt3-125m", "attention": {"windows": [None, 4]}}},
    "gpt3 without bands": {"model": DECODER | {"preset": "gpt3-175b", "attention": {"windows": [None]}}},
    "bert": BERT | {"objective": {"kind": "masked_lm", "next_sentence": True, "short_rows": 0.3}},
    "bert without next sentences": BERT | {"objective": {"kind": "masked_lm", "masking": "static", "whole_words": True}},
    "distilbert": BERT | {"model": ENCODER | {"preset": "distilbert-base"}, "objective": {"kind": "masked_lm", "rarity": 0.7}},
    "t5": T5 | {"objective": {"kind": "span_corruption"}},
    "2017": TRANSLATION | {"objective": {"kind": "text_to_text", "label_smoothing": 0.1}},
}
BITS = {"bits_per_byte", "target_tokens"}
NEXT = {"mlm_loss", "next_sentence_loss", "next_sentence_accuracy"}
# The model_type of the checkpoint, its class in transformers, by which class it is opened, and the metrics beside loss and perplexity.
OPENED: dict[str, tuple[str, str, Any, set[str]]] = {
    "gpt": ("openai-gpt", "", None, BITS),
    "gpt3": ("tfkit", "", None, BITS),
    "gpt3 without bands": ("gpt2", "", None, BITS),
    "bert": ("bert", "BertForPreTraining", AutoModelForPreTraining, {"accuracy"} | NEXT),
    "bert without next sentences": ("bert", "BertForMaskedLM", AutoModelForMaskedLM, {"accuracy"}),
    "distilbert": ("distilbert", "DistilBertForMaskedLM", AutoModelForMaskedLM, {"accuracy"}),
    "t5": ("t5", "T5ForConditionalGeneration", AutoModelForSeq2SeqLM, {"token_accuracy"}),
    "2017": ("marian", "MarianMTModel", AutoModelForSeq2SeqLM, {"token_accuracy", "nll"}),
}


@pytest.fixture
def recipe(tmp_path: Path, in_tmp_path: None) -> Path:
    """Of documents of several sentences; beside them rows of one word to nine, and the same in French."""
    random = np.random.default_rng(1)
    (tmp_path / "corpus").mkdir()
    for number in range(8):
        sentences = [" ".join(random.choice(WORDS, random.integers(3, 9))) for _ in range(40)]
        (tmp_path / "corpus" / f"{number}.txt").write_text(".\n".join(sentences), encoding="utf-8")
    rows = [[TRANSLATED[(row * row + 5 * i) % 9] for i in range(row % 9 + 1)] for row in range(60)]
    write_rows(tmp_path / "rows.jsonl", [{"en": " ".join(en for en, _ in row), "fr": " ".join(fr for _, fr in row)} for row in rows])
    return write_recipe(tmp_path, tmp_path / "corpus")


def words(name: str, **sections: Any) -> list[str]:
    short = ["training.steps=3", "training.micro_batch_size=2", "training.log_every=1", "evaluation.every=2"]
    return [*(f"{section}={json.dumps(value)}" for section, value in (RECIPES[name] | sections).items()), *short]


def generated(prompt: str) -> Any:
    command = ["generate", "--from", "run", "--prompt", prompt, "--json", "--threads", "1", "carbon.enabled=false"]
    return run_here([*command, *([] if "MASK" in prompt else ["--max-new-tokens", "4", "--temperature", "0"])]).exits(0).document


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", RECIPES)
def test_a_family_is_pretrained_resumed_opened_in_transformers_and_writes(recipe: Path, name: str) -> None:
    model_type, class_name, opened_by, metrics = OPENED[name]
    whole, run = Path("whole"), Path("run")
    pretrain(whole, recipe, *words(name)).exits(0)
    pretrain(run, recipe, *words(name), before=strike(signal.SIGTERM, 2)).exits(143)
    assert kept(run) == ["step-000001"]
    pretrain(run, recipe, "--resume", *words(name)).exits(0)
    assert_same_bits(run, whole, 3)
    [*_, scores] = [record["evaluation"] for record in records(run) if "evaluation" in record]
    assert scores.keys() == {"loss", "perplexity"} | metrics
    assert name != "bert" or scores["loss"] == pytest.approx(scores["mlm_loss"] + scores["next_sentence_loss"])
    assert "generation" not in RECIPES[name] or records(run)[-1]["samples"][0]["prompt"] == "the cat"

    loaded = load(run)
    assert read_json(loaded.folder / "config.json")["model_type"] == model_type
    assert (loaded.config.decoder_layers or loaded.config.encoder_layers, loaded.config.context_length) == (2, 24)
    assert name == "bert" or not any("seq_relationship" in key or "pooler" in key for key in loaded.model.state_dict())
    if opened_by is None:
        assert generated("the cat")["tokens"] == 4
        return
    theirs = read_by(opened_by, loaded.folder).eval()
    assert type(theirs).__name__ == class_name
    if opened_by is not AutoModelForSeq2SeqLM:
        assert generated("the cat [MASK] on")["completion"].startswith("the cat ")
        return
    codec = AutoTokenizer.from_pretrained(loaded.folder)
    [expected] = theirs.generate(**codec("the cat sat", return_tensors="pt"), max_new_tokens=4, do_sample=False)
    assert generated("the cat sat")["completion"] == codec.decode(expected, skip_special_tokens=True)
    assert theirs.config.decoder_start_token_id == loaded.start_id == 0


def test_a_start_that_is_not_pad_is_the_one_of_the_training(recipe: Path) -> None:
    """A tokenizer with bos: the decoder begins with it in training, and by the folder's config.json wherever it is used."""
    pretrain(Path("run"), recipe, *words("2017", tokenizer={"kind": "bpe_byte_fallback", "variant": "gemma", "vocab_size": 330})).exits(0)
    loaded = load("run")
    assert loaded.start_id == loaded.codec.bos_id != loaded.codec.pad_id
    assert loaded.codec.encode_texts(["a"])[0][0] == loaded.start_id == loaded.codec.start_id
    assert torch.isfinite(loaded.model(torch.tensor([[4, 5]]), decoder_input_ids=torch.tensor([[loaded.start_id]])).hidden).all()
    elsewhere = Path("elsewhere")  # as a model of others, of which a manifest says nothing
    shutil.copytree(loaded.folder, elsewhere, ignore=shutil.ignore_patterns("manifest.json"))
    edit_config(elsewhere, decoder_start_token_id=4)
    again = load(elsewhere)
    assert again.codec.start_id == again.start_id == 4
    assert again.codec.fingerprint() == loaded.codec.fingerprint()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bert", "tokenizer={kind: byte_bpe, vocab_size: 300}", "byte_bpe has no [CLS], [SEP] and [MASK]"),
        ("bert", "model.preset=gpt2", "the objective masked_lm trains encoders; this model has an encoder and a decoder"),
        ("bert", "model.head={kind: masked_lm, tied: true, next_sentence: false}", "is true, but next_sentence of the head is"),
        ("bert", "model.preset=distilbert-base", "set model.embedding.segments to 2"),
        ("bert", "objective.next_sentence=false", "short_rows is read only with next_sentence: true: remove it"),
        ("bert", "generation.prompts=[the cat]", "a model that is trained for masked_lm does not continue text; remove it"),
        ("bert", "objective.split=[0.8, 0.1, 0.2]", "the fractions sum to 1.1"),
        ("bert", "objective={kind: masked_lm, whole_words: true, rarity: 0.5}", "whole_words and rarity exclude each other"),
        ("t5", "tokenizer={kind: byte_bpe, vocab_size: 300}", "byte_bpe has no sentinels (<extra_id_0>, ...) for the spans: use unigram"),
        ("t5", "model={preset: gpt2}", "span_corruption trains models with an encoder and a decoder; this model has a decoder alone"),
        ("t5", "objective.rate=0.95", "objective.rate"),
        ("t5", "data.length_groups=false", "data.length_groups"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_done(recipe: Path, name: str, change: str, message: str) -> None:
    pretrain(Path("run"), recipe, *words(name), change).refuses(2, message)


ALONE = ["data.train.0.path=corpus/0.txt", "data.validation=null", "evaluation.every=null"]


@pytest.mark.parametrize("changes", [ALONE, ["data.validation=[{path: corpus/0.txt}]"]], ids=["trained on", "held out"])
def test_one_document_has_no_random_next_sentence(recipe: Path, changes: list[str]) -> None:
    """Which is found before the first step, too."""
    assert "step 1/" not in pretrain(Path("run"), recipe, *words("bert"), *changes).exits(3, "there is 1 here").err


# -- schedules

EACH = ["training.log_every=1", "evaluation.every=null"]


def test_noam_s_recorded_learning_rate_is_the_formula_s(base: Path) -> None:
    words = ["optimizer={kind: adam, lr: 0.5}", "schedule={kind: noam, warmup_steps: 5}", "training.steps=8"]
    pretrain(base / "noam", base / "tiny.yaml", *EACH, *words).exits(0)
    found = [record["lr"] for record in records(base / "noam") if "lr" in record]
    assert found == pytest.approx([0.5 * 16**-0.5 * min(step**-0.5, step * 5**-1.5) for step in range(1, 9)], rel=1e-12)


@pytest.mark.thorough
def test_a_run_in_tokens_with_growing_batches_ends_where_its_tokens_do(base: Path) -> None:
    """Rows of 16 tokens: 2, 2, 2, 4, 4, 4 and 6 rows, then 8, until 700 tokens are read; and the decay is over then."""
    words = ["training={tokens: 700, batch_size: 8, micro_batch_size: 2, batch_ramp: {start: 2, tokens: 256}, precision: fp32}"]
    words += [*EACH, "schedule={kind: linear, warmup_tokens: 96}", "checkpoint={every: 3, keep: 9}"]
    pretrain(base / "ramp", base / "tiny.yaml", *words).exits(0)
    lines = [record for record in records(base / "ramp") if "lr" in record]
    rows = [2, 2, 2, 4, 4, 4, 6, 8, 8, 8]  # in all
    tokens = [16 * sum(rows[:step]) for step in range(1, 11)]
    assert [line["tokens"] for line in lines] == tokens == [*tokens[:-1], 768]
    expected = [1 / 3, 2 / 3, *(1 - (read - 96) / (768 - 96) for read in tokens[2:])]
    assert [line["lr"] for line in lines] == pytest.approx([1e-3 * share for share in expected])
    assert kept(base / "ramp") == ["step-000003", "step-000006", "step-000009", "step-000010"]

    pretrain(base / "again", base / "tiny.yaml", *words, before=strike(signal.SIGKILL, 13)).exits(-signal.SIGKILL)  # within step 7
    pretrain(base / "again", base / "tiny.yaml", *words, "--resume").exits(0)
    assert_same_bits(base / "again", base / "ramp", 10)
    assert receipt(base / "again")["attempts"][1]["from_step"] == 6


@pytest.mark.parametrize(
    ("warmup", "said"),
    [
        ("{warmup_steps: 0, warmup_tokens: 3000}", "is longer than the run of "),
        ("{warmup_steps: 40}", "is longer than the run of "),
        ("{decay_end: 0.1, warmup_steps: 2}", "ends after schedule.decay_end of the "),
    ],
)
def test_a_warm_up_that_does_not_fit_the_run_is_said(base: Path, tmp_path: Path, warmup: str, said: str) -> None:
    """If the length depends on the data; training.steps is checked before."""
    words = ["training={epochs: 0.5, batch_size: 4, precision: fp32}", f"schedule={warmup}"]
    pretrain(tmp_path / "run", base / "tiny.yaml", *EACH, *words).exits(0, f"warning: the warm-up {said}")


def test_skipped_steps_do_not_count_in_the_mean(base: Path) -> None:
    """Nor in what tfkit.json says of it."""
    words = [*EACH, "training.ema_decay=0.5", "training.steps=6", "checkpoint={every: 1, keep: 6}", "training.max_skipped_steps=6"]
    pretrain(base / "skips", base / "tiny.yaml", *words, before=spoil("decoder.norm", 4, math.inf, backward=True)).exits(0)
    facts = [read_json(base / "skips" / "checkpoints" / name / "tfkit.json") for name in kept(base / "skips")]
    assert [fact["averaged"]["steps"] for fact in facts] == [1, 2, 3, 3, 4, 5]
