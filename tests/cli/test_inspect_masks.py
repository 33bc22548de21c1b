"""tfkit inspect --masks: which tokens see which, and why not the others, as the model computes it."""

from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_rows
from tiny_runs import run_here, write_corpus, write_recipe

from tfkit.console import columns_of


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))


def masks(recipe: Path, *words: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows and the masks."""
    document = run_here(["inspect", recipe, "--masks", "--json", "evaluation.every=null", *words]).exits(0).document
    return document["rows"], document["masks"]


def labelled(folder: Path) -> list[str]:
    texts = ["the cat sat", "a dog", "the cat sat on the mat"]
    write_rows(folder / "labelled.jsonl", [{"text": text, "label": "ab"[i % 2], "target": text[::-1]} for i, text in enumerate(texts)])
    return ["data={train: [{path: labelled.jsonl}]}", "training.batch_size=3"]


def test_windows_and_documents_of_a_packed_row(recipe: Path) -> None:
    write_rows(recipe.parent / "short.jsonl", [{"text": " ".join(["the cat sat on the mat"] * (1 + i % 3))} for i in range(20)])
    words = [
        "data={train: [{path: short.jsonl}]}",
        "model.decoder_layers=3",
        "model.attention={windows: [null, 5]}",
        "model.context_length=64",
        "training.batch_size=2",
    ]
    rows, shown = masks(recipe, *words)
    assert [(mask["place"], mask["layers"], mask["window"]) for mask in shown] == [
        (row["place"], layers, window) for row in rows for layers, window in (([0, 2], None), ([1], 5))
    ]
    reasons = set()
    for number, mask in enumerate(shown):
        documents = [token["document"] for token in rows[number // 2]["tokens"]]
        assert mask["queries"] == mask["keys"] == [token["token"] for token in rows[number // 2]["tokens"]][: len(mask["cells"])]
        for query, line in enumerate(mask["cells"]):
            for key, cell in enumerate(line):
                if documents[query] != documents[key]:
                    assert cell == "d"
                elif key > query:
                    assert cell == "."
                else:
                    assert cell == ("#" if query - key < (mask["window"] or 64) else "w")
        reasons |= set("".join(mask["cells"]))
    assert reasons == {"#", ".", "w", "d"}


def test_padding_of_an_encoder(recipe: Path) -> None:
    words = ["tokenizer={kind: wordpiece, vocab_size: 200}", "model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 64}"]
    rows, shown = masks(recipe, *labelled(recipe.parent), *words, "objective={kind: classification}")
    assert len(shown) == len(rows) == 3
    for row, mask in zip(rows, shown, strict=True):
        real = [token["kind"] != "padding" for token in row["tokens"]]
        expected = [["#" if is_real or query == key else "p" for key, is_real in enumerate(real)] for query in range(len(real))]
        assert mask["cells"] == ["".join(line) for line in expected]
    assert any("p" in line for mask in shown for line in mask["cells"])


def test_the_three_masks_of_an_encoder_decoder(recipe: Path) -> None:
    words = ["model={preset: t5-small, encoder_layers: 2, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, hidden_dim: 16}"]
    words += ["tokenizer={kind: unigram, vocab_size: 200}", "data.train.0.columns={source: text, target: target}"]
    rows, shown = masks(recipe, *labelled(recipe.parent), *words, "objective={kind: text_to_text}")
    assert [(mask["attention"], mask["layers"]) for mask in shown] == [("encoder", [0, 1]), ("decoder", [0]), ("cross", [0])] * 3
    for row, (encoder, decoder, cross) in zip(rows, (shown[first : first + 3] for first in (0, 3, 6)), strict=True):
        real = [token["kind"] != "padding" for token in row["tokens"]]
        target = [token["kind"] != "padding" for token in row["target"]]
        assert cross["keys"] == encoder["keys"]
        assert cross["queries"] == decoder["queries"] == ["start", *(token["token"] for token in row["target"][:-1])]
        assert cross["cells"] == ["".join("#" if is_real else "p" for is_real in real)] * len(target)
        for query, line in enumerate(decoder["cells"]):
            for key, cell in enumerate(line):
                seen = key == query or (key < query and target[key])
                assert (cell == "#") == seen
                assert seen or cell == ("." if target[key] else "p")
    assert any("p" in line for mask in shown if mask["attention"] == "cross" for line in mask["cells"])


def test_the_decoder_of_a_classifier_reads_the_text(recipe: Path) -> None:
    words = ["model={preset: t5-small, encoder_layers: 2, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, hidden_dim: 16}"]
    words += ["tokenizer={kind: unigram, vocab_size: 200}"]
    _, shown = masks(recipe, *labelled(recipe.parent), *words, "objective={kind: classification}")
    for encoder, decoder, cross in (shown[first : first + 3] for first in (0, 3, 6)):
        assert decoder["queries"] == cross["queries"] == ["start", *encoder["queries"][:-1]]
        for query, line in enumerate(decoder["cells"]):
            assert line[query] == "#"
            assert set(line[query + 1 :]) <= {".", "p"}


@pytest.mark.parametrize("width", [21, 81])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_masks_fit_the_terminal(recipe: Path, monkeypatch: pytest.MonkeyPatch, width: int, locale: str) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LC_ALL", locale)
    words = ["model.attention={windows: [5]}", "evaluation.every=null"]
    for length in (16, 128):
        out = run_here(["inspect", recipe, "--masks", "--show", "1", f"model.context_length={length}", *words]).exits(0).out
        assert max(map(columns_of, out.splitlines())) < width, out
        assert locale != "C" or out.isascii()
        assert ("each character: " in out) == (length == 128 or width == 21)
        assert "w beyond the window" in " ".join(out.split())
    assert out.splitlines()[0].startswith("row ")
