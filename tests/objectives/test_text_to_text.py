"""Text to text against transformers' own loss and ids, its smoothed labels against the formula, and the errors of rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoder_decoders import ENCODER_DECODERS
from tiny_examples import assert_judged, batch_of, judged, model, opened, stored, texts, tokenizer, whole_batch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, MarianMTModel, T5ForConditionalGeneration

from tfkit.errors import DataError, ModelError
from tfkit.evaluation.row_scores import write_texts
from tfkit.hub import load
from tfkit.objectives.objective import IGNORED
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.schema.objective_sections import TextToTextSection
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.tokenizer import Tokenizer, save_tokenizer

TOKENIZERS = {"t5": tokenizer("unigram"), "2017": tokenizer("bpe_byte_fallback", variant="translation")}
THEIRS = {"t5": T5ForConditionalGeneration, "2017": MarianMTModel}
ROWS = [{"en": source, "fr": target} for source, target in zip(texts(16), texts(16, seed=2), strict=True)]
FIRST = 7  # an ordinary entry, so that it is seen in texts
BART: dict[str, Any] = {"vocab_size": 300, "d_model": 24, "max_position_embeddings": 24, "init_std": 0.4} | {
    f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in (("layers", 2), ("attention_heads", 3), ("ffn_dim", 40))
}


def objective(kind: str = "t5", length: int = 24, codec: Tokenizer | None = None, **section: Any) -> TextToText:
    return TextToText(TextToTextSection(kind="text_to_text", **section), codec or TOKENIZERS[kind], length)


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_ids_mask_and_loss_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    task, ours = objective(kind), model(ENCODER_DECODERS[kind]).eval()
    found = stored(tmp_path, ROWS, task)
    batch = whole_batch(found, task)
    theirs = opened(tmp_path / "model", THEIRS[kind], ours, TOKENIZERS[kind])
    codec = AutoTokenizer.from_pretrained(tmp_path / "model")
    given: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 24, "return_tensors": "pt"}
    padded, labels = (codec([row[name] for row in ROWS], **given) for name in ("en", "fr"))
    assert found.truncated
    assert batch.input_ids.tolist() == padded["input_ids"].tolist()
    assert batch.padding_mask.tolist() == padded["attention_mask"].bool().tolist()
    assert batch.labels.tolist() == labels["input_ids"].masked_fill(~labels["attention_mask"].bool(), IGNORED).tolist()
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids, attention_mask=batch.padding_mask, labels=batch.labels)
    assert_judged(ours, task, batch, expected.loss, expected.logits)


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
    batch, targets = batch_of(tmp_path, ROWS, task), codec.encode_bare([row["fr"] for row in ROWS])
    wanted = [[*[FIRST, *ids.tolist()][:23], codec.eos_id] for ids in targets]
    assert [ids[ids != IGNORED].tolist() for ids in batch.labels] == wanted
    source = batch.input_ids[0, batch.padding_mask[0]]
    with torch.no_grad():
        expected = theirs(input_ids=batch.input_ids, attention_mask=batch.padding_mask, labels=batch.labels).loss
        ids = theirs.generate(source[None], max_new_tokens=6, do_sample=False, num_beams=1)
    torch.testing.assert_close(judged(loaded.model.eval(), task, batch)[0], expected, atol=1e-5, rtol=0)
    [text] = write_texts(loaded.model, task, [{"source": source.numpy()}], GenerationSection(temperature=0, max_new_tokens=6), 1)
    assert (ids[0, 1], text) == (FIRST, codec.decode(ids[0].tolist(), skip_special_tokens=True).strip())


def test_smoothed_labels_are_those_of_the_formula(tmp_path: Path) -> None:
    """The target has 1 - e plus e / V, each other entry e / V, in float64; `nll` and the perplexity are not smoothed."""
    task, ours = objective("2017", label_smoothing=0.1), model(ENCODER_DECODERS["2017"]).eval()
    batch = batch_of(tmp_path, ROWS, task)
    with torch.no_grad():
        log_probs = ours(**batch.inputs()).logits.double().log_softmax(-1)  # (B, T', V)
    loss, metrics = judged(ours, task, batch)
    targets = batch.labels != IGNORED
    likely = log_probs.gather(2, batch.labels.clamp(min=0)[..., None])[..., 0][targets]
    smoothed = -float(0.9 * likely.mean() + 0.1 / 300 * log_probs[targets].sum(-1).mean())
    assert float(loss) == pytest.approx(smoothed, rel=1e-6)
    assert {name: metrics[name] for name in ("loss", "nll", "perplexity")} == {
        "loss": pytest.approx(smoothed, rel=1e-6),
        "nll": pytest.approx(float(-likely.mean()), rel=1e-6),
        "perplexity": pytest.approx(float((-likely.mean()).exp()), rel=1e-5),
    }
    assert abs(metrics["loss"] - metrics["nll"]) > 0.01


def test_padding_is_recognised_by_length_even_where_its_id_is_a_token_of_the_text(tmp_path: Path) -> None:
    """A tokenizer without a pad token pads with id 0, which the texts contain as well."""
    codec = tokenizer("byte_bpe")
    assert codec.pad_id is None
    task = objective(codec=codec)
    found = stored(tmp_path, [{"source": "a", "target": "the cat sat"}, {"source": "the dog ran", "target": "b"}], task)
    batch = whole_batch(found, task)
    for name, mask in (("source", batch.padding_mask), ("target", batch.decoder_padding_mask)):
        assert mask.sum(1).tolist() == [len(found[i][name]) for i in range(2)]
    assert batch.labels[~batch.decoder_padding_mask].eq(IGNORED).all()
    assert batch.tokens == int(found.lengths.sum())
    for i in range(2):
        target = found[i]["target"].tolist()
        assert (target.count(codec.eos_id), target[-1], found[i]["source"][0]) == (1, codec.eos_id, codec.bos_id)
    assert batch.decoder_input_ids[:, 0].tolist() == [codec.start_id] * 2


def test_what_padding_holds_changes_nothing(tmp_path: Path) -> None:
    task, ours = objective("2017"), model(ENCODER_DECODERS["2017"])
    batch = batch_of(tmp_path, ROWS, task)
    before = float(task.loss(ours, batch)["lm"].detach())
    batch.input_ids[~batch.padding_mask] = 77
    batch.decoder_input_ids[~batch.decoder_padding_mask] = 78
    assert float(task.loss(ours, batch)["lm"].detach()) == pytest.approx(before, rel=1e-6)


def test_long_texts_are_cut_and_keep_their_end(tmp_path: Path) -> None:
    texts = (("the cat", "a"), ("the cat sat on the mat", "a"), ("a", "the " * 9))
    rows = [{"source": source, "target": target} for source, target in texts]
    cut, whole = (stored(tmp_path, rows, objective(length=length)) for length in (9, 40))  # 9: as long as the first source
    assert (cut.truncated, len(cut), whole.truncated, len(whole[0]["source"])) == (2, 3, 0, 9)
    assert "3 rows, 2 of them truncated" in cut.describe()
    for i in range(3):
        for name in ("source", "target"):
            ids, every = cut[i][name].tolist(), whole[i][name].tolist()
            assert ids == [*every[: min(len(every), 9) - 1], TOKENIZERS["t5"].eos_id]
            assert ids.count(TOKENIZERS["t5"].eos_id) == 1
    size = len(whole[2]["target"])
    for length, expected in ((size, 0), (size - 1, 1)):  # one id too many is reported, too
        assert stored(tmp_path, rows[2:], objective(length=length)).truncated == expected


def test_of_a_list_of_references_the_first_is_the_target_and_a_list_of_sentences_is_one_source(tmp_path: Path) -> None:
    rows = [{"source": ["the cat", "sat"], "target": ["the mat", "a hat"]}, {"source": "the cat sat", "target": "the mat"}]
    found = stored(tmp_path, rows, objective())
    assert all(found[0][name].tolist() == found[1][name].tolist() for name in ("source", "target"))
    assert "2 rows; of several targets of a row the first is used, 1 more left out" in found.describe()


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
        stored(tmp_path, [row], objective())


def test_a_tokenizer_that_cannot_end_or_begin_a_target_is_refused() -> None:
    with pytest.raises(ModelError, match="needs an end-of-text token, or no target would ever end"):
        objective(codec=tokenizer("bpe_eow"))
    with pytest.raises(ModelError, match="needs a start token, bos or pad"):
        objective(codec=Tokenizer.from_json(TOKENIZERS["t5"].tokenizer_json, {"eos_token": "</s>"}))
