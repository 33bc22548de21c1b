"""tfkit inspect --attention: what the library returns, on terminals of any width."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_attended import TEXT, aim_heads, write_attended
from tiny_runs import run_here

import tfkit
from tfkit.console import columns_of

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
    ],
)
def test_what_is_wrong_is_said(decoder: Path, words: list[str], code: int, said: str) -> None:
    run_here(["inspect", "--from", decoder, *words]).exits(code, said)


def test_a_checkpoint_is_needed() -> None:
    run_here(["inspect", "--attention", TEXT]).exits(2, "--attention: of which model? Name it by --from CKPT")
