"""Encoder-decoders through the real commands: a tiny T5 that fills spans, a tiny Transformer of 2017 that translates made rows.

Each is stopped after its first step and resumed to the same bits; its folder opens in transformers with nothing missing; it writes.
"""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tiny_files import read_by, read_json
from tiny_runs import assert_same_bits, kept, pretrain, records, run_tfkit, strike
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tfkit.hub import load

WORDS = {"the": "le", "a": "un", "cat": "chat", "dog": "chien", "sat": "assis", "on": "sur", "mat": "tapis", "big": "grand", "ran": "court"}
SIZES = "encoder_layers: 2, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 24"
RECIPES = {
    "t5": f"""
model: {{preset: t5-small, {SIZES}, head_dim: 6, hidden_dim: 36}}
tokenizer: {{kind: unigram, vocab_size: 200}}
data: {{train: [{{path: rows.jsonl, text: en}}], validation: 0.3}}
objective: {{kind: span_corruption}}
""",
    "2017": f"""
model: {{preset: transformer-2017-base, {SIZES}, hidden_dim: 36}}
tokenizer: {{kind: bpe_byte_fallback, variant: translation, vocab_size: 320}}
data: {{train: [{{path: rows.jsonl, columns: {{source: 'to French: {{en}}'}}}}], validation: 0.3}}
objective: {{kind: text_to_text, label_smoothing: 0.1}}
""",
}
REST = """
training: {steps: 3, batch_size: 4, micro_batch_size: 2, precision: fp32, log_every: 1}
evaluation: {every: 2}
generation: {prompts: [the cat], max_new_tokens: 4}
carbon: {enabled: false}
"""
CLASSES = {"t5": "T5ForConditionalGeneration", "2017": "MarianMTModel"}


def write_rows(folder: Path, count: int = 60) -> None:
    """Sentences of one word to nine, and their translations word by word."""
    english, french = zip(*WORDS.items(), strict=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in range(count):
            places = [(row * row + 5 * i) % 9 for i in range(row % 9 + 1)]
            pair = {"en": " ".join(english[place] for place in places), "fr": " ".join(french[place] for place in places)}
            file.write(json.dumps(pair) + "\n")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", RECIPES)
def test_it_trains_resumes_opens_in_transformers_and_writes(kind: str, tmp_path: Path, in_tmp_path: None) -> None:
    write_rows(tmp_path)
    recipe, whole, run = tmp_path / "recipe.yaml", tmp_path / "whole", tmp_path / "run"
    recipe.write_text(f"# For a test.{RECIPES[kind]}{REST.lstrip()}", encoding="utf-8")
    pretrain(whole, recipe).exits(0)
    pretrain(run, recipe, before=strike(signal.SIGTERM, 2)).exits(143)
    assert kept(run) == ["step-000001"]
    pretrain(run, recipe, "--resume").exits(0)
    assert_same_bits(run, whole, 3)
    scores = records(whole)[-2]["evaluation"]
    assert scores.keys() == {"loss", "perplexity", "token_accuracy"} | ({"nll"} if kind == "2017" else set())
    assert records(whole)[-1]["samples"][0]["prompt"] == "the cat"

    loaded = load(whole)
    theirs = read_by(AutoModelForSeq2SeqLM, loaded.folder)
    assert type(theirs).__name__ == CLASSES[kind]
    codec = AutoTokenizer.from_pretrained(loaded.folder)
    inputs = codec("the cat sat", return_tensors="pt")
    expected = theirs.eval().generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=6, do_sample=False)
    arguments = ["generate", "--from", str(whole), "--prompt", "the cat sat", "--max-new-tokens", "6", "--temperature", "0", "--json"]
    done = run_tfkit(tmp_path, [*arguments, "--threads", "1", "carbon.enabled=false"]).exits(0)
    assert done.document["completion"] == codec.decode(expected[0], skip_special_tokens=True)
    assert theirs.config.decoder_start_token_id == loaded.start_id == 0


def test_a_start_that_is_not_pad_is_the_one_of_the_training(tmp_path: Path, in_tmp_path: None) -> None:
    """A tokenizer with bos: the decoder begins with it in training, and by the folder's config.json wherever it is used."""
    write_rows(tmp_path)
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    text = RECIPES["2017"].replace("variant: translation, vocab_size: 320", "variant: gemma, vocab_size: 330")
    recipe.write_text(f"# For a test.{text}{REST.lstrip()}", encoding="utf-8")
    pretrain(run, recipe).exits(0)
    loaded = load(run)
    assert loaded.start_id == loaded.codec.bos_id != loaded.codec.pad_id
    assert loaded.codec.encode_texts(["a"])[0][0] == loaded.start_id == loaded.codec.start_id
    assert torch.isfinite(loaded.model(torch.tensor([[4, 5]]), decoder_input_ids=torch.tensor([[loaded.start_id]])).hidden).all()
    elsewhere = tmp_path / "elsewhere"  # as a model of others, of which a manifest says nothing
    shutil.copytree(loaded.folder, elsewhere, ignore=shutil.ignore_patterns("manifest.json"))
    written = read_json(elsewhere / "config.json")
    (elsewhere / "config.json").write_text(json.dumps(written | {"decoder_start_token_id": 4}), encoding="utf-8")
    again = load(elsewhere)
    assert again.codec.start_id == again.start_id == 4
    assert again.codec.fingerprint() == loaded.codec.fingerprint()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer={kind: byte_bpe, vocab_size: 300}"], "byte_bpe has no sentinels (<extra_id_0>, ...) for the spans: use unigram"),
        (
            ["model={preset: gpt2}"],
            "the objective span_corruption trains models with an encoder and a decoder; this model has a decoder alone",
        ),
        (["objective.rate=0.95"], "objective.rate"),
        (["data.length_groups=false"], "data.length_groups"),
    ],
)
def test_what_does_not_go_together_ends_before_the_first_step(words: list[str], message: str, tmp_path: Path, in_tmp_path: None) -> None:
    write_rows(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"# For a test.{RECIPES['t5']}{REST.lstrip()}", encoding="utf-8")
    done = pretrain(tmp_path / "run", recipe, *words)
    assert done.code in (2, 3, 4), done.err
    assert message in done.err
    assert "Traceback" not in done.err
