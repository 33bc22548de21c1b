"""tfkit pretrain on labelled rows: classes, tags and choices, whose checkpoints transformers opens with the names of the labels."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import read_rows, write_rows
from tiny_runs import Done, hashes, pretrain, records, run_tfkit, strike
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    OpenAIGPTDoubleHeadsModel,
)

import tfkit

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "and", "ran", "fast", "slow", "big", "small", "red"]
TAGS = {"cat": "NOUN", "dog": "NOUN", "mat": "NOUN", "hat": "NOUN", "sat": "VERB", "ran": "VERB"}
RECIPE = """
# A recipe for tests.
model: {dim: 32, num_heads: 2, context_length: 48}
data: {train: [{path: train.jsonl}], validation: [{path: dev.jsonl}]}
optimizer: {lr: 1e-2}
training: {steps: 30, batch_size: 16, precision: fp32, log_every: 10}
carbon: {enabled: false}
"""
GPT2 = ["model.preset=gpt2", "model.decoder_layers=2", "tokenizer.vocab_size=300"]
LLAMA = ["model.preset=llama-7b", "model.decoder_layers=2", "tokenizer={kind: bpe_byte_fallback, vocab_size: 300}"]
T5 = ["model.preset=t5-small", "model.encoder_layers=2", "model.decoder_layers=2", "tokenizer={kind: unigram, vocab_size: 140}"]
BERT = ["model.preset=bert-base", "model.encoder_layers=2", "tokenizer={kind: wordpiece, vocab_size: 60}"]
PLAIN = "model.dropout={embedding: 0, attention: 0, residual: 0}"


def made(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows for all three: the class of a text is whether a cat is in it, a tag that of the word, the right answer the text turned round."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = random.choice(WORDS, int(random.integers(3, 10))).tolist()
        answers = [" ".join(reversed(words)), "the red hat"][:: -1 if i % 2 else 1]
        row = {"text": " ".join(words), "label": int("cat" in words), "tokens": words, "tags": [TAGS.get(word, "OTHER") for word in words]}
        rows.append(row | {"first": answers[0], "second": answers[1], "right": i % 2})
    return rows


DEV = made(40, seed=2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows to train on, others to judge by, and a recipe."""
    for name, rows in (("train", made(160, seed=1)), ("dev", DEV)):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(place: Path, *words: str, steps: int = 30) -> tuple[Path, dict[str, float], Done]:
    """The checkpoint of a run, its evaluation, and what it said."""
    done = pretrain(place / "run", place / "tiny.yaml", *words, f"training.steps={steps}").exits(0)
    scores = next(record["evaluation"] for record in records(place / "run") if "evaluation" in record)
    return place / "run" / "checkpoints" / f"step-{steps:06d}", scores, done


def test_max_tokens_holds_for_all_validation_sets_together(place: Path) -> None:
    """Of 40 rows the first batch alone fits; the second set is scored where something is left."""
    sets = "data.validation=[{path: dev.jsonl, name: first}, {path: train.jsonl, name: second}]"
    for most, named in ((1, {"first"}), (100_000, {"first", "second"})):
        words = [*GPT2, "objective={kind: classification}", sets, "training.steps=1", f"evaluation.max_tokens={most}"]
        pretrain(place / f"run{most}", place / "tiny.yaml", *words).exits(0)
        (scores,) = (record["evaluation"] for record in records(place / f"run{most}") if "evaluation" in record)
        assert {name.partition(".")[0] for name in scores if "." in name} == named


STACKS = [(GPT2, "decoder-only"), (LLAMA, "decoder-only"), (T5, "encoder and decoder"), (BERT, "encoder-only")]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("words", "stacks"), STACKS)
def test_classes(place: Path, words: list[str], stacks: str) -> None:
    folder, scores, done = run(place, *words, PLAIN, "objective={kind: classification}", steps=6)
    assert "160 rows" in done.err
    theirs, codec = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert theirs.config.id2label == {0: "0", 1: "1"}
    assert theirs.config.label2id == {"0": 0, "1": 1}
    with torch.no_grad():
        found = [int(theirs(**codec(row["text"], return_tensors="pt")).logits.argmax()) for row in DEV]
    right = [label == row["label"] for label, row in zip(found, DEV, strict=True)]
    assert scores["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification\n" in card
    assert stacks in card
    assert f"transformers.{type(theirs).__name__}.from_pretrained" in card


@pytest.mark.thorough
def test_several_labels(place: Path) -> None:
    """The parts of speech of a text, with a delimiter between them; the figures are those of what transformers predicts."""
    for name in ("train", "dev"):
        path = place / f"{name}.jsonl"
        rows = read_rows(path)
        several = [row | {"labels": "|".join(sorted({*row["tags"]} - {"OTHER"}))} for row in rows]
        write_rows(path, several)
    assert any(not row["labels"] for row in several)
    folder, scores, _ = run(place, *BERT, PLAIN, "objective={kind: multi_label}")
    theirs, codec = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert (theirs.config.problem_type, theirs.config.id2label) == ("multi_label_classification", {0: "NOUN", 1: "VERB"})
    with torch.no_grad():
        found = [theirs(**codec(row["text"], return_tensors="pt")).logits[0] > 0 for row in DEV]
    predictions = [{label for label, one in zip(("NOUN", "VERB"), row.tolist(), strict=True) if one} for row in found]
    right = [{*row["labels"].split("|")} - {""} for row in several]
    assert scores["exact_match"] == pytest.approx(np.mean([one == other for one, other in zip(predictions, right, strict=True)]), abs=1e-6)
    hits, all_of_them = sum(map(len, map(set.intersection, predictions, right))), sum(map(len, [*predictions, *right]))
    assert (scores["f1_micro"], hits > 0) == (pytest.approx(2 * hits / all_of_them, abs=1e-6), True)
    assert "pipeline_tag: text-classification\n" in (folder / "README.md").read_text(encoding="utf-8")
    gate = ["--fail-if", "exact_match < 0"]
    done = run_tfkit(place, ["evaluate", "--from", "run", "--data", "dev.jsonl", "--predictions", "p.jsonl", "--json", *gate]).exits(0)
    lines = read_rows(place / "p.jsonl")
    assert [{*line["predicted"]} for line in lines] == predictions
    assert json.loads(done.out)["metrics"]["f1_macro"] == pytest.approx(scores["f1_macro"])


@pytest.mark.thorough
def test_answers_in_a_context(place: Path) -> None:
    """Who is at the end; long contexts have several windows. Stopped and resumed, the run gives the same bytes; transformers opens it."""
    for name in ("train", "dev"):
        path = place / f"{name}.jsonl"
        rows = read_rows(path)
        asked = [
            {
                "question": "what is last",
                "context": f"{row['text']} {row['text']}",
                "answers": {"text": [row["tokens"][-1]], "answer_start": [start]},
            }
            for row in rows
            for start in [2 * len(row["text"]) + 1 - len(row["tokens"][-1])]
        ]
        write_rows(path, asked)
    words = [
        *BERT,
        "objective={kind: question_answering, doc_stride: 4}",
        "model.context_length=24",
        "checkpoint.every=3",
    ]
    folder, scores, done = run(place, *words, steps=9)
    assert "160 rows" in done.err
    assert (scores["f1"] >= scores["exact_match"], {*scores}) == (True, {"loss", "exact_match", "f1"})
    theirs = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    ids = torch.arange(20)[None] % 50
    with torch.no_grad():
        output, ours = theirs(input_ids=ids), tfkit.load(folder).model(ids).logits
    assert float((torch.stack([output.start_logits, output.end_logits], -1) - ours).abs().max()) < 1e-4
    assert "pipeline_tag: question-answering\n" in (folder / "README.md").read_text(encoding="utf-8")
    words.append("training.steps=9")
    pretrain(place / "stopped", place / "tiny.yaml", *words, before=strike(signal.SIGTERM, 5)).exits(143)
    assert pretrain(place / "stopped", place / "tiny.yaml", *words, "--resume").code == 0
    assert hashes(place / "stopped", 9) == hashes(place / "run", 9)
    assert [record.get("loss") for record in records(place / "stopped")] == [record.get("loss") for record in records(place / "run")]


def test_names_of_classes_survive_loading_and_saving(place: Path) -> None:
    words = [*GPT2, "objective={kind: classification, labels: [Straße, no, '🙂']}", "data.train.0.columns={label: word}"]
    for name in ("train", "dev"):
        path = place / f"{name}.jsonl"
        rows = read_rows(path)
        named = [row | {"word": ["no", "Straße"][row["label"]]} for row in rows]
        write_rows(path, named)
    folder, *_ = run(place, *words, "data.validation.0.columns={label: word}", steps=2)
    names = ("Straße", "no", "🙂")
    assert json.loads((folder / "tfkit.json").read_text(encoding="utf-8"))["labels"] == list(names)
    loaded = tfkit.load(folder)
    assert loaded.labels == names
    loaded.save(place / "again")
    assert tfkit.load(place / "again").labels == names
    assert AutoModelForSequenceClassification.from_pretrained(place / "again").config.id2label == dict(enumerate(names))


def test_a_number_instead_of_a_class(place: Path) -> None:
    folder, scores, _ = run(place, *BERT, PLAIN, "objective={kind: classification, regression: true}", steps=5)
    theirs, codec = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert (theirs.config.problem_type, theirs.config.num_labels) == ("regression", 1)
    padded = codec([row["text"] for row in DEV], padding=True, return_tensors="pt")
    with torch.no_grad():
        loss = float(theirs(**padded, labels=torch.tensor([float(row["label"]) for row in DEV])).loss)
    assert scores["loss"] == pytest.approx(loss, rel=1e-4)
    assert scores["rmse"] == pytest.approx(loss**0.5, rel=1e-4)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", [BERT, GPT2])
def test_tags(place: Path, words: list[str]) -> None:
    folder, scores, _ = run(place, *words, PLAIN, "objective={kind: tagging}")
    theirs, codec = AutoModelForTokenClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert theirs.config.id2label == {0: "NOUN", 1: "OTHER", 2: "VERB"}
    right = total = 0
    for row in DEV:
        words_of = [f" {word}" for word in row["tokens"]] if words is GPT2 else row["tokens"]
        encoded = codec(words_of, is_split_into_words=True, return_tensors="pt")
        numbers = encoded.word_ids()
        with torch.no_grad():
            tags = theirs(**encoded).logits[0].argmax(-1)
        firsts = [numbers.index(number) for number in range(len(row["tokens"]))]
        right += sum(theirs.config.id2label[int(tags[i])] == tag for i, tag in zip(firsts, row["tags"], strict=True))
        total += len(firsts)
    assert scores["accuracy"] == pytest.approx(right / total, abs=1e-6)
    assert scores["accuracy"] > 0.9  # most words are OTHER: 0.6
    assert "pipeline_tag: token-classification\n" in (folder / "README.md").read_text(encoding="utf-8")
    assert tfkit.load(place / "run").labels == ("NOUN", "OTHER", "VERB")


def test_a_limit_that_ends_inside_the_first_set_leaves_the_same_to_the_next_one_as_evaluate(place: Path) -> None:
    """One row of the second set is judged even if the remaining evaluation.max_tokens are fewer than its tokens."""
    columns = "columns: {context: text, choices: [first, second], label: right}"
    sets = f"data.validation=[{{path: dev.jsonl, name: a, {columns}}}, {{path: train.jsonl, name: b, {columns}}}]"
    words = ["model.preset=gpt", "model.decoder_layers=1", PLAIN, "objective={kind: multiple_choice}", "training.steps=1"]
    words += ["tokenizer={kind: bpe_eow, vocab_size: 120, special_tokens: [_start_, _delimiter_, _classify_]}", "evaluation.max_tokens=300"]
    pretrain(place / "run", place / "tiny.yaml", *words, sets, f"data.train=[{{path: train.jsonl, {columns}}}]").exits(0)
    (scores,) = (record["evaluation"] for record in records(place / "run") if "evaluation" in record)
    done = run_tfkit(place, ["evaluate", "--from", str(place / "run"), "--json", "--threads", "1"])
    assert json.loads(done.out)["metrics"] == pytest.approx(scores, rel=1e-5)
    assert "b.loss" in scores


@pytest.mark.thorough
def test_choices(place: Path) -> None:
    columns = "{context: text, choices: [first, second], label: right}"
    words = ["model.preset=gpt", "model.decoder_layers=2", PLAIN, "objective={kind: multiple_choice}"]
    words += ["tokenizer={kind: bpe_eow, vocab_size: 80, special_tokens: [_start_, _delimiter_, _classify_]}"]
    folder, scores, _ = run(place, *words, f"data.train.0.columns={columns}", f"data.validation.0.columns={columns}")
    theirs, codec = OpenAIGPTDoubleHeadsModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    start, delimiter, classify = codec.convert_tokens_to_ids(["_start_", "_delimiter_", "_classify_"])
    right = 0
    for row in DEV:
        context, *answers = (codec(row[name])["input_ids"] for name in ("text", "first", "second"))
        with torch.no_grad():
            each = [float(theirs(torch.tensor([[start, *context, delimiter, *one, classify]])).mc_logits) for one in answers]
        right += int(each[1] > each[0]) == row["right"]
    assert scores["accuracy"] == right / 40 > 0.6
    assert scores["loss"] == pytest.approx(scores["choices"] + 0.5 * scores["lm"])
    assert "transformers.OpenAIGPTDoubleHeadsModel.from_pretrained" in (folder / "README.md").read_text(encoding="utf-8")
