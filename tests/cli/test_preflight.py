"""Mistakes that would silently train a model wrongly are found before the first step, and reported on the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import read_json, read_rows, write_rows
from tiny_runs import Done, exact, kept, pretrain, run_here

from tfkit.data import trained_tokenizer
from tfkit.data.sources.open_sources import open_source
from tfkit.engine.assembly.preflight import misfit
from tfkit.recipe.schema.data_sections import SourceSection, TokenizerSection

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "ran", "fast", "slow", "big", "small", "red", "blue", "tree"]
RECIPE = """
model: {preset: gpt2, decoder_layers: 1, dim: 16, num_heads: 2, context_length: 16, init: {std: 0.1}}
tokenizer: {vocab_size: 300}
data: {train: [{path: rows.jsonl}]}
training: {steps: 2, batch_size: 4, precision: fp32}
carbon: {enabled: false}
"""
CLASSES = ["objective.kind=classification", "data.train=[{path: labelled.jsonl}]"]


def text(random: np.random.Generator, words: int) -> str:
    return " ".join(random.choice(WORDS, words))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    write_rows(tmp_path / "rows.jsonl", [{"text": text(random, 40)} for _ in range(20)])
    write_rows(tmp_path / "labelled.jsonl", [{"text": text(random, 3 + i % 9), "label": ["no", "yes"][i % 2]} for i in range(40)])
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def run(place: Path, *words: str, name: str = "run") -> Done:
    return pretrain(place / name, place / "tiny.yaml", *words)


def finished(place: Path, name: str, **settings: Any) -> Path:
    """The tokenizer of a run, with other settings; without special_tokens_map.json, which would make up for them."""
    if not (place / "first").exists():
        run(place, "training.steps=1", "tokenizer.special_tokens=['<more>']", name="first").exits(0)
    folder = place / name
    folder.mkdir()
    for file in (place / "first" / "checkpoints" / "step-000001").glob("tokenizer*"):
        shutil.copy(file, folder)
    edit_json(folder / "tokenizer_config.json", settings)
    return folder


def edit_json(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps(read_json(file) | changes), encoding="utf-8")


def test_texts_that_never_end_within_a_row_are_reported(place: Path) -> None:
    write_rows(place / "one.jsonl", [{"text": text(np.random.default_rng(2), 77)}])
    said = "no text ends within a row of 16 tokens that is trained on, so the model does not learn to end"
    run(place, "data.train=[{path: one.jsonl}]").exits(0, f"warning: one.jsonl: {said}")
    assert "warning" not in run(place, "data.train=[{path: one.jsonl}, {path: rows.jsonl}]", name="both").exits(0).err


@pytest.mark.parametrize("add_bos", ["true", "false"])
def test_the_end_of_the_only_text_is_a_target_where_the_rows_end_with_it(place: Path, add_bos: str) -> None:
    """One text of exactly two rows: 32 targets, the last of which is the end. One token more, and the end is in no row."""
    for extra, warned in ((0, False), (1, True)):
        letters = "x" * (31 + extra if add_bos == "true" else 32 + extra)  # bytes, since the vocabulary has no room for more
        write_rows(place / "one.jsonl", [{"text": letters}])
        words = ["data.train=[{path: one.jsonl}]", "tokenizer.vocab_size=257", f"tokenizer.add_bos={add_bos}"]
        done = run(place, *words, name=f"run-{extra}").exits(0)
        assert ("no text ends within a row" in done.err) == warned, done.err


def test_a_finished_tokenizer_without_an_end_is_reported(place: Path) -> None:
    edit_json(finished(place, "endless", eos_token=None, bos_token=None) / "tokenizer.json", {"post_processor": None})
    run(place, "tokenizer={path: endless}").exits(0, "warning: the tokenizer has no token that ends a text")
    of_a_kind_without = run(place, "tokenizer={kind: bpe_eow, vocab_size: 100}", name="gpt").exits(0)
    assert "ends a text" not in of_a_kind_without.err


def test_a_text_that_begins_with_what_the_tokenizer_puts_there_is_refused(place: Path) -> None:
    write_rows(place / "doubled.jsonl", [{"text": "the cat sat"}] * 3 + [{"text": "<|endoftext|>the cat sat"}])
    finished(place, "reads", split_special_tokens=False)
    said = "doubled.jsonl:4: the text begins with <|endoftext|>, which the tokenizer puts before every text"
    run(place, "tokenizer={path: reads}", "data.train=[{path: doubled.jsonl}]").refuses(3, said)
    assert kept(place / "run") == []
    finished(place, "splits", split_special_tokens=True)  # there it is a text like any other
    run(place, "tokenizer={path: splits}", "data.train=[{path: doubled.jsonl}, {path: rows.jsonl}]", name="other").exits(0)


def test_in_every_text_of_a_labelled_row(place: Path) -> None:
    write_rows(place / "pairs.jsonl", [{"text": "the cat", "pair": "[CLS] the dog", "label": i % 2} for i in range(8)])
    encoder = "model={preset: bert-base, encoder_layers: 1, dim: 16, hidden_dim: 16, num_heads: 2, context_length: 16}"
    words = [encoder, "tokenizer.kind=wordpiece", CLASSES[0], "data.train=[{path: pairs.jsonl}]"]
    run(place, *words).exits(3, "pairs.jsonl:1: the pair begins with [CLS], which the tokenizer puts before every text")


def test_padding_is_masked_by_length_whatever_its_id(place: Path) -> None:
    """With the end of text as padding, also where it occurs in a text, training is as with a padding token of its own."""
    rows = read_rows(place / "labelled.jsonl")
    write_rows(place / "labelled.jsonl", [row | {"text": row["text"] + "<|endoftext|> the end<|endoftext|>"} for row in rows])
    words = [*CLASSES, "model.context_length=32", "data.length_groups=false"]
    for name, pad in (("same", "<|endoftext|>"), ("own", "<more>"), ("none", None)):
        finished(place, f"{name}-pad", split_special_tokens=False, pad_token=pad)
        run(place, *words, f"tokenizer={{path: {name}-pad}}", name=name).exits(0)
    assert exact(place / "same") == exact(place / "own") == exact(place / "none")
    rows = run_here(["inspect", "tiny.yaml", *words, "tokenizer={path: same-pad}", "--show", "4", "--json"]).exits(0).document["rows"]
    for row in rows:
        ends = [token["kind"] != "padding" for token in row["tokens"] if token["token"] == "<|endoftext|>"]
        assert sum(ends) == 3, "the template's, and the two of the text"
    assert any(token["kind"] == "padding" for row in rows for token in row["tokens"])


def test_more_rows_cut_than_the_limit_are_refused(place: Path) -> None:
    words = [*CLASSES, "model.context_length=8"]
    [(lost, cut)] = re.findall(
        r"labelled\.jsonl: 40 rows, ((\d+) of them truncated \(first labelled\.jsonl:\d+\))", run(place, *words).exits(0).err
    )
    most, fewer = int(cut) / 40, (int(cut) - 1) / 40
    assert 0 < most < 1
    run(place, *words, f"data.max_lost={most}", name="as-many").exits(0)
    remedy = "allow longer rows (data.sequence_length, model.context_length)"
    said = f"labelled.jsonl: 40 rows, {lost}: more than data.max_lost, {fewer:.4g}, allows; {remedy}"
    run(place, *words, f"data.max_lost={fewer}", name="fewer").refuses(3, said)


def test_more_bad_rows_than_the_limit_are_refused(place: Path) -> None:
    write_rows(place / "bad.jsonl", [{"text": text(np.random.default_rng(i), 30)} if i % 5 else {"txt": ""} for i in range(20)])
    words = ["data.train=[{path: bad.jsonl}]", "data.on_bad_row=skip"]
    run(place, *words, "data.max_lost=0.2").exits(0)
    said = "bad.jsonl: 4 bad rows skipped: 4 no column 'text' (first bad.jsonl:1); of 20 rows: more than data.max_lost, 0.19"
    run(place, *words, "data.max_lost=0.19", name="more").refuses(3, said)


# -- a tokenizer that does not fit the language of the texts is warned of, and no other


SYLLABLES = {
    "latin": ["ta", "ren", "ko", "mi", "sul", "ba", "nor", "ve"],
    "cyrillic": ["та", "рен", "ко", "ми", "сул", "ба", "нор", "ве"],
    "han": ["山", "水", "火", "木", "金", "土", "日", "月"],
}


def source(folder: Path, script: str, words: int = 600, seed: int = 0):
    random, syllables = np.random.default_rng(seed), SYLLABLES[script]
    made = ["".join(random.choice(syllables, 4)) for _ in range(words)]
    write_rows(folder / f"{script}-{seed}.jsonl", [{"text": " ".join(made[first : first + 20])} for first in range(0, words, 20)])
    return open_source(SourceSection(path=str(folder / f"{script}-{seed}.jsonl")), "all", None)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece", "unigram", "bpe_byte_fallback"])
def test_a_misfit_is_of_another_script_than_the_tokenizer_was_trained_on(tmp_path: Path, kind: str) -> None:
    for script in SYLLABLES:
        section = TokenizerSection(kind=kind, vocab_size=500 if kind != "wordpiece" else 300)
        tokenizer = trained_tokenizer([source(tmp_path, script)], section, lambda _: None)
        for other in SYLLABLES:
            warning = misfit(source(tmp_path, other, seed=1), tokenizer, "encoder")
            assert (warning is not None) == (script != other), (script, other, warning)
            if warning is not None:
                assert "100%" in warning or "99%" in warning
                assert "such as hub:distilbert/distilbert-base-multilingual-cased" in warning
        assert misfit(source(tmp_path, "han" if script != "han" else "latin", 100), tokenizer, "encoder") is None, (
            "too few words to judge by"
        )
