"""tfkit inspect: what it shows is what the objective's own batch holds; --masks: which tokens see which, as the model computes it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import write_rows
from tiny_runs import run_here
from tiny_writers import TEXT, aim_heads, write_attended

import tfkit
from tfkit.console import columns_of


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def batch_of(rows: list[dict[str, Any]], *words: str) -> list[str]:
    """Write the rows, and return the words with which a recipe reads them all in one batch."""
    write_rows(Path("rows.jsonl"), rows)
    return ["data={train: [{path: rows.jsonl}]}", "evaluation.every=null", f"training.batch_size={len(rows)}", *words]


def labelled(count: int = 8) -> list[dict[str, Any]]:
    return [{"text": " ".join(["the cat sat on the mat"] * (1 + i % 2)), "label": ["no", "yes"][i % 2]} for i in range(count)]


def test_a_language_model_has_a_loss_on_every_token_but_the_first(recipe: Path) -> None:
    document = run_here(["inspect", recipe, "--show", "2", "--json", "training.batch_size=4"]).exits(0).document
    assert (document["objective"], document["first_step"]) == ("causal_lm", document["first_step"] | {"rows": 4, "targets": {"lm": 4 * 16}})
    assert [[token["kind"] for token in row["tokens"]] for row in document["rows"]] == [["no loss", *["loss"] * 16]] * 2


def test_the_class_of_a_text_and_its_padding_are_shown(recipe: Path) -> None:
    shown = run_here(["inspect", recipe, "--show", "8", *batch_of(labelled(), "objective={kind: classification}")]).exits(0).out
    assert "rows.jsonl:2: 13 tokens, label: yes\n" in shown
    assert (shown.count("label: no"), shown.count("  pad   "), "targets: 8 classes" in shown, "\x1b" in shown) == (4, 4, True, False)
    assert max(map(len, shown.splitlines())) <= 80
    assert not (recipe.parent / "runs").exists()


def test_the_labels_of_a_text_are_shown(recipe: Path) -> None:
    rows = [{"text": "the cat sat", "labels": labels} for labels in ("calm|odd", "", "odd")]
    words = batch_of(rows, "objective={kind: multi_label}")
    document = run_here(["inspect", recipe, *words, "--json"]).exits(0).document
    labels = {row["place"]: row["labels"] for row in document["rows"]}
    assert labels == {"rows.jsonl:1": ["calm", "odd"], "rows.jsonl:2": [], "rows.jsonl:3": ["odd"]}
    assert document["first_step"]["targets"] == {"labels": 6}
    assert {token["kind"] for row in document["rows"] for token in row["tokens"]} == {"no loss"}
    shown = run_here(["inspect", recipe, *words]).exits(0).out
    assert all(f"tokens, labels: {labels}\n" in shown for labels in ("calm, odd", "none", "odd"))


def test_the_windows_of_a_question_and_the_answer_in_them(recipe: Path) -> None:
    context = " ".join(["the cat sat on the mat"] * 3 + ["a dog ran"])
    rows = [{"question": "who ran", "context": context, "answers": [{"text": "a dog", "answer_start": context.index("a dog")}]}]
    words = batch_of(
        [*rows, {"question": "who sat", "context": "the cat", "answers": []}],
        *("objective={kind: question_answering, unanswerable: true, doc_stride: 2}", "tokenizer={kind: wordpiece, vocab_size: 200}"),
        "model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 20}",
    )
    document = run_here(["inspect", recipe, *words, "--json"]).exits(0).document
    [*before, last], [other] = ([row for row in document["rows"] if row["place"].startswith(f"rows.jsonl:{line}")] for line in (1, 2))
    assert [row["place"] for row in (*before, last)] == [f"rows.jsonl:1, window {number}" for number in range(len(before) + 1)]
    assert (len(before) > 0, other["place"]) == (True, "rows.jsonl:2")
    for row in (*before, other):
        assert [token["token"] for token in row["tokens"] if token["label"] == "no answer" and token["kind"] == "loss"] == ["[CLS]"]
    assert "".join(token["token"].removeprefix("##") for token in last["tokens"] if token["label"] == "answer") == "adog"
    assert document["first_step"]["targets"] == {"spans": len(before) + 2}
    shown = run_here(["inspect", recipe, *words]).exits(0).out
    assert ("[CLS]->no answer" in shown, "->answer: a token of the answer" in shown) == (True, True)


def test_a_number_is_shown_as_it_was_written(recipe: Path) -> None:
    words = batch_of([{"text": "the cat sat", "label": label} for label in (1.92, "-0.1", 3)])
    shown = run_here(["inspect", recipe, *words, "objective={kind: classification, regression: true}"]).exits(0).out
    labels = sorted(line.partition(": ")[2] for line in shown.splitlines() if line.startswith("rows.jsonl"))
    assert labels == [f"4 tokens, label: {number}" for number in ("-0.1", "1.92", "3.0")]
    assert "targets: 3 values" in shown


def test_the_choices_of_a_row_and_the_right_one(recipe: Path) -> None:
    words = batch_of([{"context": "the cat", "choices": ["sat", "ran"], "label": 1}], "objective={kind: multiple_choice}")
    shown = run_here(["inspect", recipe, *words, "tokenizer.special_tokens=[_start_, _delimiter_, _classify_]"]).exits(0).out
    places = [line for line in shown.splitlines() if line.startswith("rows.jsonl:1, choice ")]
    assert [place.partition("with a loss, ")[2] for place in places] == ["right: no", "right: yes"]


def test_a_key_that_is_none_and_a_row_without_its_label(recipe: Path) -> None:
    run_here(["inspect", recipe, "data.trian=1"]).refuses(2, "did you mean train")
    words = batch_of([*labelled(), {"text": "the cat"}], "objective={kind: classification}")
    run_here(["inspect", recipe, *words]).refuses(3, "rows.jsonl:9: no column 'label'", "columns: {label: NAME}")


# -- masks

T5 = "model={preset: t5-small, encoder_layers: 2, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, hidden_dim: 16}"
BERT = "model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 64}"
TEXTS = ["the cat sat", "a dog", "the cat sat on the mat"]


def masks(recipe: Path, rows: list[dict[str, Any]], *words: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows and the masks."""
    document = run_here(["inspect", recipe, "--masks", "--json", *batch_of(rows, *words)]).exits(0).document
    return document["rows"], document["masks"]


def masks_of_texts(recipe: Path, *words: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return masks(recipe, [{"text": text, "label": "ab"[i % 2], "target": text[::-1]} for i, text in enumerate(TEXTS)], *words)


def real(tokens: list[dict[str, Any]]) -> list[bool]:
    return [token["kind"] != "padding" for token in tokens]


def test_windows_and_documents_of_a_packed_row(recipe: Path) -> None:
    short = [{"text": " ".join(["the cat sat on the mat"] * (1 + i % 3))} for i in range(20)]
    sizes = ["model.decoder_layers=3", "model.attention={windows: [null, 5]}", "model.context_length=64", "training.batch_size=2"]
    rows, shown = masks(recipe, short, *sizes)
    assert [(mask["place"], mask["layers"], mask["window"]) for mask in shown] == [
        (row["place"], layers, window) for row in rows for layers, window in (([0, 2], None), ([1], 5))
    ]
    for number, mask in enumerate(shown):
        tokens = rows[number // 2]["tokens"]
        documents = [token["document"] for token in tokens]
        assert mask["queries"] == mask["keys"] == [token["token"] for token in tokens][: len(mask["cells"])]
        for query, line in enumerate(mask["cells"]):
            for key, cell in enumerate(line):
                if documents[query] != documents[key]:
                    assert cell == "d"
                elif key > query:
                    assert cell == "."
                else:
                    assert cell == ("#" if query - key < (mask["window"] or 64) else "w")
    assert {*"".join(line for mask in shown for line in mask["cells"])} == {"#", ".", "w", "d"}


def test_padding_of_an_encoder(recipe: Path) -> None:
    rows, shown = masks_of_texts(recipe, BERT, "tokenizer={kind: wordpiece, vocab_size: 200}", "objective={kind: classification}")
    for row, mask in zip(rows, shown, strict=True):
        keys = [*enumerate(real(row["tokens"]))]
        assert mask["cells"] == ["".join("#" if is_real or query == key else "p" for key, is_real in keys) for query, _ in keys]
    assert (len(rows), any("p" in line for mask in shown for line in mask["cells"])) == (3, True)


def test_the_three_masks_of_an_encoder_decoder(recipe: Path) -> None:
    words = ["tokenizer={kind: unigram, vocab_size: 200}", "data.train.0.columns={source: text, target: target}"]
    rows, shown = masks_of_texts(recipe, T5, *words, "objective={kind: text_to_text}")
    assert [(mask["attention"], mask["layers"]) for mask in shown] == [("encoder", [0, 1]), ("decoder", [0]), ("cross", [0])] * 3
    for row, (encoder, decoder, cross) in zip(rows, (shown[first : first + 3] for first in (0, 3, 6)), strict=True):
        target = real(row["target"])
        assert cross["keys"] == encoder["keys"]
        assert cross["queries"] == decoder["queries"] == ["start", *(token["token"] for token in row["target"][:-1])]
        assert cross["cells"] == ["".join("#" if is_real else "p" for is_real in real(row["tokens"]))] * len(target)
        for query, line in enumerate(decoder["cells"]):
            for key, cell in enumerate(line):
                seen = key == query or (key < query and target[key])
                assert cell == ("#" if seen else "." if target[key] else "p")
    assert any("p" in line for mask in shown if mask["attention"] == "cross" for line in mask["cells"])


def test_the_decoder_of_a_classifier_reads_the_text(recipe: Path) -> None:
    _, shown = masks_of_texts(recipe, T5, "tokenizer={kind: unigram, vocab_size: 200}", "objective={kind: classification}")
    for encoder, decoder, cross in (shown[first : first + 3] for first in (0, 3, 6)):
        assert decoder["queries"] == cross["queries"] == ["start", *encoder["queries"][:-1]]
        for query, line in enumerate(decoder["cells"]):
            assert (line[query], {*line[query + 1 :]} <= {".", "p"}) == ("#", True)


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


# -- --attention: what heads attend to


TARGET = "a dog ran to the cat"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_attended(tmp_path_factory.mktemp("both"), "t5", aim_heads)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_attended(tmp_path_factory.mktemp("decoder"), "mistral")


def shown(folder: Path, *words: str, text: str = TEXT) -> str:
    return run_here(["inspect", "--from", folder, "--attention", text, *words]).exits(0).out


def test_the_summary_names_the_heads_that_were_made(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "81")
    out = shown(both, "--target", TARGET)
    encoder, decoder, cross = re.split(r"^(?=decoder|cross)", out, flags=re.MULTILINE)
    assert re.search(r"^P previous token    2 heads clearest: L\d H0 100%, L\d H0 100%", encoder, re.MULTILINE)
    assert re.search(r"^N next token        2 heads clearest: L\d H1 100%", encoder, re.MULTILINE)
    assert re.search(r"^I itself            2 heads clearest: L\d H2 100%", encoder, re.MULTILINE)
    assert "  L0 PNI\n  L1 PNI\n" in encoder
    assert re.search(r"^P previous token .* clearest: L\d H1 100%, L\d H1 100%", decoder, re.MULTILINE)
    assert cross.startswith("cross: 2 layers of 3 heads, ")
    assert "previous token" not in cross


@pytest.mark.sampled(5)
@pytest.mark.parametrize("words", [(), ("--layer", "1", "--head", "2"), ("--next",)])
@pytest.mark.parametrize("width", [21, 81])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_lines_fit_the_terminal(
    both: Path, decoder: Path, monkeypatch: pytest.MonkeyPatch, width: int, locale: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LC_ALL", locale)
    for out in (shown(both, "--target", TARGET, *words), shown(decoder, *words, text=f"{TEXT} \n\x1b[2J")):
        assert max(map(columns_of, out.splitlines())) < width, out
        assert "\x1b" not in out
        assert locale != "C" or out.isascii()
        assert words != ("--layer", "1", "--head", "2") or ("#" if locale == "C" else "█") in out


def test_one_head_shows_for_each_token_what_it_attends_to(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LC_ALL", "C")
    out = shown(both, "--target", TARGET, "--layer", "0", "--head", "1")
    encoder, decoder, _ = re.split(r"^(?=decoder|cross)", out, flags=re.MULTILINE)
    tokens = tfkit.load(both).attention(TEXT, TARGET)
    for name, part, step in (("encoder", encoder, 1), ("decoder", decoder, -1)):
        queries, keys = tokens.axes(name)
        lines = part.splitlines()[1:]
        for place, token in enumerate(queries):
            if 0 <= place + step < len(keys):
                assert lines[place].startswith(token.replace("Ġ", "_"))
                assert re.search(rf" # {re.escape(keys[place + step].replace('Ġ', '_'))} +100%$", lines[place]), lines[place]
    drawn = decoder.splitlines()[3]
    assert re.match(r"\S+ +\.#\.  ", drawn)  # the third token sees three, and attends to the second; what follows is blank


def test_a_next_token_has_a_probability_that_tells_it_from_others(decoder: Path) -> None:
    """Below a tenth with a decimal: of a large vocabulary most would be 0%."""
    attended = tfkit.load(decoder).attention(TEXT, next_tokens=5)
    written = re.findall(r" (\d+(?:\.\d)?)%", shown(decoder, "--next"))
    expected = [share for one in attended.next_tokens or () for share in (one.probability, *(share for _, share in one.likeliest))]
    small = [share for share in expected if share is not None and share < 0.0995]
    assert small, "the case to be shown is not here"
    assert {f"{share:.1%}"[:-1] for share in small} <= {*written}


def test_json_is_what_the_library_returns(decoder: Path) -> None:
    attended = tfkit.load(decoder).attention(TEXT, next_tokens=5)
    document = json.loads(shown(decoder, "--json", "--next"))
    assert document["schema_version"] == 1
    assert document == json.loads(json.dumps(attended.to_dict()))
    assert np.allclose(document["maps"]["decoder"], attended.maps["decoder"], atol=1e-6)
    assert np.array_equal(np.array(document["visible"]["decoder"], bool), attended.visible["decoder"])
    assert [one["actual"] for one in document["next_tokens"]] == [*attended.tokens[1:], None]
    one = json.loads(shown(decoder, "--json", "--layer", "1", "--head", "4"))
    assert np.allclose(one["maps"]["decoder"], attended.maps["decoder"][1:2, 4:5], atol=1e-6)
    assert (one["layer"], one["head"], one["next_tokens"]) == (1, 4, None)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--attention", TEXT, "--layer", "2", "--head", "0"], 2, "--layer 2 --head 0: the model has 2 layers, 0 to 1, of 6 heads, 0 to 5"),
        (["--attention", TEXT, "--layer", "1", "--head", "6"], 2, "take one of these"),
        (["--attention", TEXT, "--layer", "1"], 2, "--layer and --head name one head together"),
        (["--attention", TEXT, "--target", TEXT], 2, "--target: only an encoder-decoder reads a second text"),
        (["--attention", TEXT * 20], 3, "the model's context holds 40: shorten it"),
        (["--attention", ""], 3, "the text gives no token"),
        (["--target", TEXT, "--next"], 2, "--target, --next: belongs to --attention TEXT"),
        (["--attention", TEXT, "--rows", "3", "training.steps=2"], 2, "training.steps=2, --rows: has no effect with --attention"),
        (["--attention", TEXT, "--masks", "--show", "3"], 2, "--masks, --show: has no effect with --attention"),
    ],
)
def test_what_is_wrong_is_said(decoder: Path, words: list[str], code: int, said: str) -> None:
    run_here(["inspect", "--from", decoder, *words]).exits(code, said)


def test_a_checkpoint_is_needed() -> None:
    run_here(["inspect", "--attention", TEXT]).exits(2, "--attention: of which model? Name it by --from CKPT")
