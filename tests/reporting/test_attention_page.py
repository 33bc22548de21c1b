"""The page of attention: one file that loads nothing, with a script that its policy names, whatever the tokens are."""

import base64
import hashlib
import html
import json
import re
from datetime import date
from pathlib import Path

import numpy as np
from test_html_page import HOSTILE, Page
from tiny_runs import run_here
from tiny_writers import TEXT, aim_heads, write_attended

import tfkit
from tfkit.__main__ import main
from tfkit.reporting.attention_page import KindRow, NextRow, ShownMap, attention_page

TARGET = "a dog ran to the cat"


def random_page(layers: int, heads: int, count: int, *, tokens: list[str] | None = None, next_tokens: list[NextRow] | None = None) -> str:
    weights = np.random.default_rng(0).dirichlet(np.ones(count), (layers, heads, count)).astype(np.float32)
    names = tokens or [f"token{number}" for number in range(count)]
    kinds = [KindRow("~", "spread", layers * heads, [(0, 0, 0.5)], "evenness")]
    letters = [("spread", "~")] * heads * layers
    shown = ShownMap("encoder", names, names, weights, np.ones((layers, count, count), bool), kinds, letters)
    return attention_page("runs/some-model", names, None, [shown], next_tokens or [], date(2026, 11, 29))


def decoded(text: str) -> list[dict[str, str]]:
    """Return the attributes of each map's section."""
    return [dict(re.findall(r'data-(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<section data-[^>]*>", text)]


def test_a_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    folder, target = write_attended(tmp_path / "model", "t5", aim_heads), tmp_path / "page.html"
    assert main(["inspect", "--from", str(folder), "--attention", TEXT, "--target", TARGET, "--next", "--html", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    found = Page(text)
    assert {"link", "img", "iframe", "object", "base", "form"}.isdisjoint(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href", "action", "xlink:href")]
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert (len(script), found.tags.count("script")) == (1, 1)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert ("content", f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'") in found.attributes
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)|url\((?!#)|@import|javascript:|innerHTML|eval|fetch|XMLHttp", text)
    assert found.tags.count("h1") == 1
    titles = ["Encoder", "Decoder", "Cross-attention", "Next tokens"]
    assert [one for one in found.texts if one in titles] == titles
    assert "L0 H0 100%" in found.text  # what the tables say without the script
    assert "Attention of model" in found.texts
    assert str(tmp_path) not in text


def test_the_bytes_are_the_weights_and_what_is_not_visible(tmp_path: Path) -> None:
    for family, target in (("mistral", None), ("t5", TARGET)):
        folder, path = write_attended(tmp_path / family, family), tmp_path / f"{family}.html"
        words = ["--target", target] if target else []
        assert main(["inspect", "--from", str(folder), "--attention", TEXT, *words, "--html", str(path)]) == 0
        attended = tfkit.load(folder).attention(TEXT, target)
        sections = decoded(path.read_text(encoding="utf-8"))
        for (name, weights), section in zip(attended.maps.items(), sections, strict=True):
            queries, keys = attended.axes(name)
            assert (json.loads(html.unescape(section["to"])), json.loads(html.unescape(section["from"]))) == (queries, keys)
            read = np.frombuffer(base64.b64decode(section["weights"]), np.uint8).reshape(weights.shape)
            visible = np.broadcast_to(attended.visible[name][:, None], weights.shape)
            assert ((read == 255) == ~visible).all()
            assert np.abs(read[visible] / 250 - weights[visible]).max() <= 0.5 / 250 + 1e-6
        assert "beyond the window" in path.read_text(encoding="utf-8") or family != "mistral"


def test_the_head_that_is_enlarged_first(tmp_path: Path) -> None:
    folder, target = write_attended(tmp_path / "model", "t5", aim_heads), tmp_path / "page.html"
    words = ["inspect", "--from", str(folder), "--attention", TEXT, "--target", TARGET, "--html", str(target)]
    assert main(words) == 0
    encoder, decoder, _ = decoded(target.read_text(encoding="utf-8"))
    assert (encoder["head"], decoder["head"]) in (("0", "1"), ("1", "1"), ("2", "1"))  # those that were made
    assert main([*words, "--layer", "1", "--head", "2"]) == 0
    assert [(one["layer"], one["head"]) for one in decoded(target.read_text(encoding="utf-8"))] == [("1", "2")] * 3


def test_twelve_layers_of_twelve_heads_are_under_three_megabytes() -> None:
    sizes = {count: len(random_page(12, 12, count).encode()) for count in (30, 60)}
    assert sizes[30] < sizes[60] < 3_000_000


def test_tokens_of_others_are_shown_and_not_obeyed() -> None:
    tokens = [HOSTILE, "'", "&quot;", "\u202e"]
    rows = [NextRow(token, token, 0.5, [(token, 0.5)]) for token in tokens]
    text = random_page(1, 2, 4, tokens=tokens, next_tokens=rows)
    found = Page(text)
    assert found.tags.count("script") == 1
    assert not any(character in text for character in "\x1b\u202e\x00\ud800")
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert '<script>alert("1")</script>' in found.text
    [section] = decoded(text)
    assert json.loads(html.unescape(section["to"]))[1] == "'"


def test_an_output_replaces_no_other_file(tmp_path: Path) -> None:
    folder, path = write_attended(tmp_path / "model", "gpt2"), tmp_path / "notes.html"
    path.write_text("<p>mine</p>")
    words = ["inspect", "--from", folder, "--attention", TEXT, "--html"]
    refused = {path: "is not a page of tfkit inspect", folder / "page.html": "where nothing else belongs", tmp_path: "is a folder"}
    for place, said in refused.items():
        run_here([*words, place]).exits(2, said)
    assert path.read_text() == "<p>mine</p>"
    for _ in range(2):
        assert run_here([*words, tmp_path / "page.html"]).exits(0).out == ""
