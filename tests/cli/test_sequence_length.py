"""data.sequence_length: training rows that are shorter than the model's context, which the checkpoint keeps."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_files import receipt, write_rows
from tiny_runs import Done, pretrain, records, run_here
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tfkit.errors import UsageError
from tfkit.hub import load
from tfkit.objectives.context import piece_length
from tfkit.recipe.presets import model_config
from tfkit.recipe.schema.sections import ModelSection

pytestmark = pytest.mark.usefixtures("in_tmp_path")

LLAMA = "model={preset: llama2-7b, decoder_layers: 2, dim: 16, num_heads: 2, num_kv_heads: 1, hidden_dim: 32, context_length: 64}"
LENGTH = "data.sequence_length"
TUNED = ["training.batch_size=4", "training.precision=fp32", "carbon.enabled=false", "training.trial_rates=null"]


@pytest.fixture(scope="module")
def place(starts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama/, a decoder whose context is 64, bert/, an encoder whose context is 16, and texts and labelled rows for them."""
    folder = tmp_path_factory.mktemp("lengths") / "copy"
    shutil.copytree(starts, folder)
    pretrain(folder / "llama", folder / "tiny.yaml", LLAMA, "training.steps=2", "evaluation.every=null").exits(0)
    return folder


def finetune(place: Path, start: str, data: str, run: str, *words: str) -> Done:
    return run_here(["finetune", "--from", place / start, "--data", place / data, "--run", run, *TUNED, *words])


def evaluate(*words: object) -> dict[str, Any]:
    return run_here(["evaluate", "--json", *words, "carbon.enabled=false", "evaluation.bootstrap=null"]).exits(0).document


def scored(run: str) -> list[Any]:
    """Return the losses and evaluations of a run, in their order."""
    return [one.get("loss", one.get("evaluation")) for one in records(Path(run)) if "loss" in one or "evaluation" in one]


@pytest.mark.thorough
def test_a_tuned_model_and_its_base_are_scored_in_pieces_of_the_same_length(place: Path) -> None:
    finetune(place, "llama", "corpus", "tuned", "training.steps=1", f"{LENGTH}=16").exits(0)
    data = ("--data", place / "corpus")
    of_both = [evaluate("--from", start, *data, *words) for words in ([], [f"{LENGTH}=8"]) for start in ("tuned", place / "llama")]
    assert [one["sequence_length"] for one in of_both] == [64, 64, 8, 8]
    assert len({one["metrics"]["target_tokens"] for one in of_both}) == 1
    assert evaluate("--from", "tuned")["sequence_length"] == 64, "its own held-out texts, too"


@given(st.integers(1, 10**5), st.none() | st.integers(1, 10**5))
def test_pieces_are_of_the_context_at_most_1024_or_of_the_given_length(context: int, given_length: int | None) -> None:
    config = model_config(ModelSection.model_validate({"preset": "llama2-7b", "context_length": context}), 300)
    if given_length is not None and given_length > context:
        with pytest.raises(UsageError, match=r"data.sequence_length is"):
            piece_length(given_length, config)
    else:
        assert piece_length(given_length, config) == (given_length or min(1024, context))


def test_a_decoder_that_is_tuned_on_short_rows_keeps_and_reads_its_whole_context(place: Path) -> None:
    words = ["training.steps=2", "evaluation.every=1", "evaluation.batch_size=5"]
    for run, length in (("kept", f"{LENGTH}=16"), ("cut", "model.context_length=16")):
        finetune(place, "llama", "corpus", run, *words, length).exits(0)
    kept, cut = load("kept"), load("cut")
    assert (kept.config.context_length, cut.config.context_length) == (64, 16)
    for name, tensor in cut.model.state_dict().items():
        torch.testing.assert_close(kept.model.state_dict()[name], tensor, atol=0, rtol=0)
    assert scored("kept") == scored("cut")
    best = min((one for one in scored("kept") if isinstance(one, dict)), key=lambda metrics: float(metrics["loss"]))
    alone, result = evaluate("--from", "kept", f"{LENGTH}=16"), receipt("kept")["result"]
    assert (alone["metrics"], alone["context_length"], alone["sequence_length"]) == (best, 64, 16)
    assert (result["sequence_length"], result["evaluation"].keys() == best.keys()) == (16, True)
    assert "| trained on rows of | 16 tokens at most |" in (kept.folder / "README.md").read_text(encoding="utf-8")
    assert "trained on rows of" not in (cut.folder / "README.md").read_text(encoding="utf-8")
    theirs = AutoModelForCausalLM.from_pretrained(kept.folder)
    assert theirs.config.max_position_embeddings == 64
    ids = torch.arange(5, 60)[None]
    torch.testing.assert_close(theirs(ids).logits, kept.model(ids).logits, atol=1e-4, rtol=1e-4)
    words = ["generate", "--from", "kept", "--prompt", "the cat", "--max-new-tokens", "40", "--json", "carbon.enabled=false"]
    assert run_here(words).exits(0).document["tokens"] > 16


def test_an_encoder_that_is_tuned_on_short_rows_keeps_its_positions(place: Path) -> None:
    words = ["training.steps=4", "optimizer.lr=1e-2", "data.validation=0.3"]
    for run, length in (("kept", f"{LENGTH}=5"), ("cut", "model.context_length=5")):
        finetune(place, "bert", "labelled.jsonl", run, *words, length).exits(0, "of them truncated (first")
    kept, cut, base = load("kept"), load("cut"), load(place / "bert")
    assert (kept.config.context_length, cut.config.context_length) == (16, 5)
    ours = kept.model.state_dict()
    for name, tensor in cut.model.state_dict().items():
        torch.testing.assert_close(ours[name][: len(tensor)], tensor, atol=0, rtol=0)
    unread, before = kept.model.embedding.positions, base.model.embedding.positions
    torch.testing.assert_close(unread.weight[5:], before.weight[5:], atol=0, rtol=1e-3)  # but for the weight decay
    assert AutoModelForSequenceClassification.from_pretrained(kept.folder).config.max_position_embeddings == 16
    assert evaluate("--from", "kept")["metrics"] in scored("kept") == scored("cut")
    write_rows(Path("long.jsonl"), [{"text": "the cat sat on the mat"}])
    predict = ["predict", "--from", "kept", "--data", "long.jsonl", "carbon.enabled=false"]
    run_here(predict).exits(0, "longer than data.sequence_length, 5 tokens")
    run_here([*predict, f"{LENGTH}=null"]).exits(0)


def test_no_row_is_longer_than_the_context(place: Path) -> None:
    said = "data.sequence_length is 65, but the model's context holds 64 tokens: set it to that or less, or leave it out"
    finetune(place, "llama", "corpus", "run", "training.steps=1", f"{LENGTH}=65").exits(2, said)
    judge = ["evaluate", "--from", place / "llama", "--data", place / "corpus"]
    said = f"command line: {LENGTH}: model.context_length holds 64 tokens: set this to 64 or less"
    run_here([*judge, f"{LENGTH}=65"]).exits(2, said)
    said = "data.sequence_length: minimal_pairs uses the model's whole context"
    run_here([*judge, "objective={kind: minimal_pairs}", f"{LENGTH}=6"]).exits(2, said)


ROTARY = "position: {kind: rotary}, dim: 16, num_heads: 2, hidden_dim: 24, init: {std: 0.2}"
ENCODER = f"preset: bert-tiny, encoder_layers: 1, {ROTARY}"
DECODER = f"preset: gpt2, decoder_layers: 1, {ROTARY}"
T5 = "preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, hidden_dim: 24"
WORDPIECE = "tokenizer={kind: wordpiece, vocab_size: 120}"
UNIGRAM = "tokenizer={kind: unigram, vocab_size: 200}"
# objective, model or none to start from the decoder `llama`, the length, and further words
KINDS: dict[str, tuple[str | None, int, list[str]]] = {
    "{kind: causal_lm}": (DECODER, 12, []),
    "{kind: masked_lm}": (ENCODER, 12, [WORDPIECE]),
    "{kind: masked_lm, next_sentence: true}": (ENCODER, 12, [WORDPIECE]),
    "{kind: span_corruption}": (T5, 12, [UNIGRAM]),
    "{kind: classification}": (ENCODER, 6, [WORDPIECE, "data.train.0.columns={text: text}"]),
    "{kind: multi_label}": (ENCODER, 6, [WORDPIECE, "data.train.0.columns={text: text, labels: label}"]),
    "{kind: tagging}": (ENCODER, 6, [WORDPIECE, "data.train.0.columns={tokens: tokens, tags: tags}"]),
    "{kind: question_answering, doc_stride: 2}": (ENCODER, 12, [WORDPIECE]),
    "{kind: multiple_choice, start: null, delimiter: <d>, classify: <c>}": (DECODER, 12, ["tokenizer={special_tokens: [<d>, <c>]}"]),
    "{kind: text_to_text}": (T5, 6, [UNIGRAM, "data.train.0.columns={source: text, target: text}"]),
    "{kind: chat, format: llama2, pack: true}": (None, 40, ["data.train.0.columns={instruction: label, output: text}"]),
    "{kind: reward}": (None, 9, []),
    "{kind: dpo}": (None, 9, []),
    "{kind: grpo, rules: [{kind: regex, pattern: '[a-m]'}], prompts: 2, completions: 2, max_new_tokens: 4}": (None, 12, []),
}


def rows_for(objective: str) -> Iterator[dict[str, Any]]:
    """Yield rows that have the columns of every objective, and more tokens than fit the lengths of KINDS."""
    random = np.random.default_rng(3)
    for number in range(24):
        words = random.choice(["the", "cat", "dog", "sat", "ran", "fast"], int(random.integers(3, 12))).tolist()
        text = " ".join(words)
        row = {"text": text, "label": number % 2 if "multiple" in objective else ["good", "bad"][number % 2]}
        row |= {"tokens": words, "tags": [word[0] for word in words], "choices": ["the", "cat"]}
        row |= {"question": "who", "context": text, "answers": [{"text": words[0], "answer_start": 0}]}
        yield row | {"prompt": f"{number}" + " a" * (number % 9), "chosen": text, "rejected": text[::-1]}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("objective", KINDS)
def test_every_objective_reads_rows_of_that_length(place: Path, objective: str) -> None:
    """Losses and evaluations are those of a model whose context is that long, and not those of longer rows."""
    model, length, words = KINDS[objective]
    write_rows(Path("rows.jsonl"), rows_for(objective))
    for run, context, own in (("kept", 64, length), ("cut", length, None), ("whole", 64, None)):
        changes = model or f"from: {place / 'llama'}"
        data = "train: [{path: rows.jsonl}], validation: 0.3, on_bad_row: skip"
        recipe = f"model: {{{changes}, context_length: {context}}}\ndata: {{{data}}}\nobjective: {objective}\n"
        recipe += "training: {steps: 2, batch_size: 4, precision: fp32, log_every: 1}\ncarbon: {enabled: false}\n"
        Path(f"{run}.yaml").write_text(recipe, encoding="utf-8")
        command = ["pretrain" if model else "finetune", f"{run}.yaml", "--run", run, "--threads", "1", *words]
        run_here([*command, *([f"{LENGTH}={own}"] if own else [])]).exits(0)
    assert scored("kept") == scored("cut") != scored("whole")
    assert (load("kept").config.context_length, load("cut").config.context_length) == (64, length)
