"""Text to text against transformers' own loss and ids, its smoothed labels against the formula, and the errors of rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoder_decoders import ENCODER_DECODERS
from tiny_examples import assert_same_steps, batches, examples, model, opened, texts, tokenizer, whole_batch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, MarianMTModel, T5ForConditionalGeneration

from tfkit.errors import DataError, ModelError
from tfkit.evaluation.written import write_texts
from tfkit.hub import load
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.schema.objective_sections import TextToTextSection
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer, save_tokenizer

TOKENIZERS = {"t5": tokenizer("unigram"), "2017": tokenizer("bpe_byte_fallback", variant="translation")}
THEIRS = {"t5": T5ForConditionalGeneration, "2017": MarianMTModel}
ROWS = [{"en": source, "fr": target} for source, target in zip(texts(16), texts(16, seed=2), strict=True)]
ROLES: tuple[Role, ...] = TextToTextSection.roles
FIRST = 7  # an ordinary entry, so that it is seen in texts
BART: dict[str, Any] = {"vocab_size": 300, "d_model": 24, "max_position_embeddings": 24, "init_std": 0.4} | {
    f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in (("layers", 2), ("attention_heads", 3), ("ffn_dim", 40))
}
SMOOTHED = {"label_smoothing": 0.1}


def objective(kind: str = "t5", length: int = 24, codec: Tokenizer | None = None, **section: Any) -> TextToText:
    return TextToText(TextToTextSection(kind="text_to_text", **section), codec or TOKENIZERS[kind], length)


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_ids_mask_and_loss_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    task, ours = objective(kind), model(ENCODER_DECODERS[kind]).eval()
    stored = examples(tmp_path, ROWS, ROLES, task)
    batch = whole_batch(stored, task)
    theirs = opened(tmp_path / "model", THEIRS[kind], ours, TOKENIZERS[kind])
    codec = AutoTokenizer.from_pretrained(tmp_path / "model")
    padded, labels = (
        codec([row[name] for row in ROWS], padding=True, truncation=True, max_length=24, return_tensors="pt") for name in ("en", "fr")
    )
    assert stored.truncated
    expected_labels = labels["input_ids"].masked_fill(~labels["attention_mask"].bool(), -100)
    assert batch.input_ids.tolist() == padded["input_ids"].tolist()
    assert batch.padding_mask.tolist() == padded["attention_mask"].bool().tolist()
    assert batch.labels.tolist() == expected_labels.tolist()
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids, attention_mask=batch.padding_mask, labels=batch.labels)
        found = float(task.loss(ours, batch)["lm"] / task.counts(batch)["lm"])
        metrics = task.metrics(task.measure(ours, batch))
    assert found == pytest.approx(float(expected.loss), abs=1e-5)
    right = (expected.logits.argmax(-1) == batch.labels).sum() / (batch.labels != -100).sum()
    assert metrics == {
        "loss": pytest.approx(float(expected.loss), abs=1e-5),
        "perplexity": pytest.approx(float(expected.loss.exp()), rel=1e-4),
        "token_accuracy": pytest.approx(float(right)),
    }


def test_a_text_that_is_forced_to_begin_with_a_token_has_it_in_training_too(tmp_path: Path) -> None:
    """BART's decoder reads </s> <s> text: in its pretraining, in transformers' fine-tuning, and in generation."""
    codec = TOKENIZERS["2017"]
    config = BartConfig(**BART, decoder_start_token_id=codec.eos_id, eos_token_id=codec.eos_id, pad_token_id=codec.pad_id)
    theirs = BartForConditionalGeneration(config).eval()
    theirs.generation_config.forced_bos_token_id, theirs.generation_config.forced_eos_token_id = FIRST, None
    theirs.save_pretrained(tmp_path)
    save_tokenizer(codec, tmp_path)
    loaded = load(tmp_path)
    task = objective(length=24, codec=loaded.codec)
    assert task.fingerprint() != objective(length=24, codec=codec).fingerprint()
    stored = examples(tmp_path, ROWS, ROLES, task)
    targets = codec.encode_bare([row["fr"] for row in ROWS])
    assert [stored[i]["target"].tolist() for i in range(16)] == [[*[FIRST, *ids.tolist()][:23], codec.eos_id] for ids in targets]
    (batch,) = batches(stored, task, 16, batch_size=16)
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids, attention_mask=batch.padding_mask, labels=batch.labels).loss
        found = task.loss(loaded.model.eval(), batch)["lm"] / task.counts(batch)["lm"]
        ids = theirs.generate(batch.input_ids[:1, : int(batch.padding_mask[0].sum())], max_new_tokens=6, do_sample=False, num_beams=1)
    assert float(found) == pytest.approx(float(expected), abs=1e-5)
    settings = GenerationSection(temperature=0, max_new_tokens=6)
    [text] = write_texts(loaded.model, task, [{"source": batch.input_ids[0, batch.padding_mask[0]].numpy()}], settings, 1)
    assert (ids[0, 1], text) == (FIRST, codec.decode(ids[0].tolist(), skip_special_tokens=True).strip())


def test_smoothed_labels_are_those_of_the_formula(tmp_path: Path) -> None:
    """The target has 1 - e plus e / V, each other entry e / V, in float64; `nll` and the perplexity are not smoothed."""
    task, ours = objective("2017", **SMOOTHED), model(ENCODER_DECODERS["2017"]).eval()
    stored = examples(tmp_path, ROWS, ROLES, task)
    (batch,) = batches(stored, task, 8)
    with torch.no_grad():
        log_probs = ours(**batch.inputs()).logits.double().log_softmax(-1)  # (B, T', V)
        loss, sums = float(task.loss(ours, batch)["lm"]), task.measure(ours, batch)
    targets = batch.labels != -100
    likely = log_probs.gather(2, batch.labels.clamp(min=0)[..., None])[..., 0][targets]
    smoothed = -(0.9 * likely.sum() + 0.1 / 300 * log_probs[targets].sum())
    assert loss == pytest.approx(float(smoothed), rel=1e-6)
    metrics = task.metrics(sums)
    assert metrics["loss"] == pytest.approx(float(smoothed) / int(targets.sum()), rel=1e-6)
    assert metrics["nll"] == pytest.approx(float(-likely.mean()), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(float((-likely.mean()).exp()), rel=1e-5)
    assert abs(metrics["loss"] - metrics["nll"]) > 0.01


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("kind", "section"), [("t5", {}), ("2017", SMOOTHED)])
def test_losses_and_weights_do_not_depend_on_the_micro_batch(kind: str, section: dict[str, Any], tmp_path: Path) -> None:
    task = objective(kind, **section)
    stored = examples(tmp_path, ROWS, ROLES, task)
    assert_same_steps(ENCODER_DECODERS[kind], stored, task)


def test_padding_is_recognised_by_length_even_where_its_id_is_a_token_of_the_text(tmp_path: Path) -> None:
    """A tokenizer without a pad token pads with id 0, which the texts contain as well."""
    codec = tokenizer("byte_bpe")
    assert codec.pad_id is None
    task = objective(codec=codec)
    stored = examples(tmp_path, [{"source": "a", "target": "the cat sat"}, {"source": "the dog ran", "target": "b"}], ROLES, task)
    (batch,) = batches(stored, task, 2, batch_size=2)
    assert [sorted(mask.sum(1).tolist()) for mask in (batch.padding_mask, batch.decoder_padding_mask)] == [
        sorted(len(stored[i][name]) for i in range(2)) for name in ("source", "target")
    ]
    assert batch.labels[~batch.decoder_padding_mask].eq(-100).all()
    assert batch.tokens == int(stored.lengths.sum())
    for i in range(2):
        target = stored[i]["target"].tolist()
        assert target.count(codec.eos_id) == 1
        assert target[-1] == codec.eos_id
        assert stored[i]["source"].tolist()[0] == codec.bos_id
    assert batch.decoder_input_ids[:, 0].tolist() == [codec.start_id] * 2


def test_what_padding_holds_changes_nothing(tmp_path: Path) -> None:
    task, ours = objective("2017"), model(ENCODER_DECODERS["2017"])
    (batch,) = batches(examples(tmp_path, ROWS, ROLES, task), task, 8)
    before = float(task.loss(ours, batch)["lm"].detach())
    batch.input_ids[~batch.padding_mask] = 77
    batch.decoder_input_ids[~batch.decoder_padding_mask] = 78
    assert float(task.loss(ours, batch)["lm"].detach()) == pytest.approx(before, rel=1e-6)


def test_long_texts_are_cut_and_keep_their_end(tmp_path: Path) -> None:
    task = objective(length=9)  # as long as the first source
    rows = [
        {"source": "the cat", "target": "a"},
        {"source": "the cat sat on the mat", "target": "a"},
        {"source": "a", "target": "the " * 9},
    ]
    stored = examples(tmp_path, rows, ROLES, task)
    assert (stored.truncated, len(stored)) == (2, 3)
    assert "3 rows, 2 of them truncated" in stored.describe()
    eos = TOKENIZERS["t5"].eos_id
    for i in range(3):
        for ids in (stored[i]["source"], stored[i]["target"]):
            assert len(ids) <= 9
            assert ids.tolist().count(eos) == 1
            assert ids[-1] == eos
    whole = examples(tmp_path, rows, ROLES, objective(length=40))
    assert whole.truncated == 0
    for length, cut in ((len(whole[2]["target"]), 0), (len(whole[2]["target"]) - 1, 1)):  # one id too many is reported, too
        assert examples(tmp_path, rows[2:], ROLES, objective(length=length)).truncated == cut
    for i in range(3):
        for name in ("source", "target"):
            assert stored[i][name].tolist()[:-1] == whole[i][name].tolist()[: len(stored[i][name]) - 1]
    assert len(whole[0]["source"]) == 9


def test_columns_templates_and_references(tmp_path: Path) -> None:
    """Of a list of references the first is the target; a list of sentences is one source."""
    task = objective()
    rows = [{"source": ["the cat", "sat"], "target": ["the mat", "a hat"]}, {"source": "the cat sat", "target": "the mat"}]
    stored = examples(tmp_path, rows, ROLES, task)
    for name in ("source", "target"):
        assert stored[0][name].tolist() == stored[1][name].tolist()
    assert "2 rows; of several targets of a row the first is used, 1 more left out" in stored.describe()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "", "target": "a"}, "rows.jsonl:1: the source has no text; correct or remove the row"),
        ({"source": "a", "target": " "}, "rows.jsonl:1: the target has no text; correct or remove the row"),
        ({"source": "", "target": []}, "rows.jsonl:1: the target has no text"),
        ({"source": "a", "target": ["cat", 3]}, "rows.jsonl:1: column 'target' holds a list with int, not a list of texts"),
        ({"source": "a", "target": "the </s> cat"}, "rows.jsonl:1: the text of the target contains '</s>', which ends a target"),
        ({"instruction": "say", "input": "a", "output": "b"}, "no column 'source' or .*; columns found: instruction, input, output"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_place(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        examples(tmp_path, [row], ROLES, objective())


def test_a_tokenizer_that_cannot_end_or_begin_a_target_is_refused() -> None:
    with pytest.raises(ModelError, match="needs an end-of-text token, or no target would ever end"):
        objective(codec=tokenizer("bpe_eow"))
    with pytest.raises(ModelError, match="needs a start token, bos or pad"):
        objective(codec=Tokenizer.from_json(TOKENIZERS["t5"].tokenizer_json, {"eos_token": "</s>"}))
