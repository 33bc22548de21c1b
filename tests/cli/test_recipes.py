"""The bundled recipes, as they are listed and printed; and their public data, from a server on this machine."""

import hashlib
import http.server
import io
import json
import ssl
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tiny_runs import run_here

from tfkit.__main__ import main
from tfkit.engine.tools import fetching
from tfkit.recipe import bundled, bundled_recipes


def test_the_list_has_a_summary_for_each() -> None:
    lines = run_here(["recipes"]).exits(0).out.splitlines()
    assert [line.split()[0] for line in lines] == [recipe.name for recipe in bundled_recipes()]
    assert all(len(line.split()) > 3 for line in lines)
    listed = run_here(["recipes", "--json"]).exits(0).document["recipes"]
    assert [recipe["summary"] for recipe in listed] == [recipe.summary for recipe in bundled_recipes()]


def test_a_terminal_gets_no_line_that_it_would_break(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[0] != " "] == [recipe.name for recipe in bundled_recipes()]
    shown = " ".join(" ".join(lines).split())
    assert all(recipe.summary in shown for recipe in bundled_recipes())


@pytest.mark.parametrize("name", ["gpt2-stdlib", "pretrain/gpt2-stdlib"])
def test_one_is_printed_as_it_is(name: str) -> None:
    [text] = [recipe.path.read_text(encoding="utf-8") for recipe in bundled_recipes() if recipe.name == "pretrain/gpt2-stdlib"]
    assert run_here(["recipes", name]).exits(0).out == text == run_here(["recipes", name, "--json"]).exits(0).document["text"]


# -- their public data

CONTENT = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(9000)).encode()
RECIPE = """# A recipe of a test.
model: {preset: bert-tiny}
tokenizer: {kind: wordpiece, vocab_size: 300}
data: {train: [{path: DATA}]}
objective: {kind: classification}
training: {steps: 1}
"""


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `broken`: this many answers end half-way; `ranges`: whether it sends parts; `statuses`: of the next answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.broken, self.ranges = CONTENT, 0, True
        self.statuses: list[int] = []
        self.asked: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        content, begin = server.content, int(asked.removeprefix("bytes=").rstrip("-")) if server.ranges and asked else 0
        if server.statuses or begin >= len(content) > 0:
            return self.send_error(server.statuses.pop(0) if server.statuses else 416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end = (begin + len(content)) // 2 if server.broken else len(content)
        server.broken = max(server.broken - 1, 0)
        self.wfile.write(content[begin:end])

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def write_table(**sets: dict[str, Any]) -> None:
    """Write the sets of data that the bundled recipes know."""
    about = {"source": "https://example.org", "licence": "CC0"}
    (bundled.bundled_folder() / "data.json").write_text(json.dumps({name: about | one for name, one in sets.items()}), encoding="utf-8")


def write_recipe(data: str) -> None:
    (bundled.bundled_folder() / "finetune" / "made.yaml").write_text(RECIPE.replace("DATA", data), encoding="utf-8")


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, a bundled recipe whose data it has, and an empty current folder."""
    with Server() as running:
        (tmp_path / "recipes" / "finetune").mkdir(parents=True)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setattr(bundled, "bundled_folder", lambda: tmp_path / "recipes")
        monkeypatch.setattr(fetching, "_PAUSES", (0.0, 0.0))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        url = f"http://127.0.0.1:{running.server_port}/train.csv"
        write_table(made={"files": {"train.csv": {"url": url, "sha256": hash_of(CONTENT), "bytes": len(CONTENT)}}})
        write_recipe("data/made/train.csv, header: [text, label]")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


FILE = Path("data/made/train.csv")


def test_the_files_are_where_the_recipe_looks(server: Server) -> None:
    done = run_here(["recipes", "made", "--fetch"]).exits(0, "https://example.org, licence: CC0", "now: tfkit finetune made")
    assert done.out == f"{FILE}  {len(CONTENT) / 1000:.0f} kB\n"
    assert FILE.read_bytes() == CONTENT
    assert [path.name for path in FILE.parent.iterdir()] == ["train.csv"]
    (file,) = run_here(["recipes", "made", "--fetch", "--json"]).exits(0).document["files"]
    assert (file["path"], file["fetched"]) == (str(FILE), False)
    assert len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(server: Server, ranges: bool) -> None:
    """Within the command, and in the next one; from the start if the server sends whole files only."""
    server.broken, server.ranges = 4, ranges
    run_here(["recipes", "made", "--fetch"]).exits(3)
    assert not FILE.exists()
    run_here(["recipes", "made", "--fetch"]).exits(0)
    assert FILE.read_bytes() == CONTENT
    assert server.asked[0] is None
    begun = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.asked[1:] if asked]
    assert begun[0] == len(CONTENT) // 2
    assert (begun == sorted(set(begun))) == ranges


def test_a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not(server: Server) -> None:
    server.statuses = [503, 429]
    run_here(["recipes", "made", "--fetch"]).exits(0)
    FILE.unlink()
    server.statuses, server.asked = [404], []
    run_here(["recipes", "made", "--fetch"]).exits(3, "cannot be fetched (Not Found)")
    assert len(server.asked) == 1


def test_a_connection_that_fails_in_tls_is_no_file_that_cannot_be_written(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_download", Mock(side_effect=ssl.SSLError("bad record mac")))
    run_here(["recipes", "made", "--fetch"]).exits(3, "cannot be fetched (('bad record mac',)); check the network")


def test_other_content_is_not_kept(server: Server) -> None:
    server.content = CONTENT[:-1] + b"!"
    run_here(["recipes", "made", "--fetch"]).exits(3, "its content is not that of the recipe's data")
    assert not list(FILE.parent.iterdir())
    FILE.write_text("mine", encoding="utf-8")
    run_here(["recipes", "made", "--fetch"]).exits(3, "move it away")
    assert FILE.read_text(encoding="utf-8") == "mine"


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_OFFLINE", "1")
    run_here(["recipes", "made", "--fetch"]).exits(3, "TFKIT_OFFLINE is set; unset it, or put the file of http://127.0.0.1")
    assert not server.asked


def test_data_are_made_from_an_archive_and_from_another_set(server: Server) -> None:
    """Lines in turn, of ten pairs one to test and one to validation; text that was converted once too often; the archive does not stay."""
    sides = {side: "".join(f"{side} {number} \x96 a, b \n" for number in range(21)) for side in ("neg", "pos")}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for side, text in sides.items():
            archive.writestr(f"sentence_polarity/rt-polarity.{side}", text)
    server.content = packed.getvalue()
    expected = {"train.csv": [*range(2, 10), *range(12, 20)], "valid.csv": [1, 11], "test.csv": [0, 10, 20]}
    files = {
        name: "text,label\n"
        + "".join(f'"{side} {n} – a, b",{label}\n' for n in numbers for side, label in (("neg", "negative"), ("pos", "positive")))
        for name, numbers in expected.items()
    }
    archive = {"url": f"http://127.0.0.1:{server.server_port}/made.zip", "sha256": hash_of(server.content)}
    polarity = {"archive": archive, "files": {name: {"sha256": hash_of(text.encode())} for name, text in files.items()}}
    write_table(sentence_polarity=polarity)
    write_recipe("data/sentence_polarity/train.csv")
    folder = Path("data/sentence_polarity")
    run_here(["recipes", "made", "--fetch"]).exits(0)
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == files
    (folder / "valid.csv").unlink()
    done = run_here(["recipes", "made", "--fetch"]).exits(0)
    assert ["already there" in line for line in done.out.splitlines()] == [True, False, True]

    prompts = {"prompts.jsonl": [f"{side} {n} –" for n in expected["train.csv"] for side in sides]}
    prompts["held_out.jsonl"] = ["neg 1 –", "pos 1 –", "neg 11 –", "pos 11 –"]
    made = {name: "".join(f'{{"prompt": "{text[:-1]}\\u2013"}}\n' for text in texts) for name, texts in prompts.items()}
    reviews = {"made_of": "sentence_polarity", "files": {name: {"sha256": hash_of(text.encode())} for name, text in made.items()}}
    write_table(sentence_polarity=polarity, reviews=reviews)
    write_recipe("data/reviews/prompts.jsonl")
    (folder / "train.csv").unlink()
    run_here(["recipes", "made", "--fetch"]).exits(0)
    assert {path.name: path.read_text(encoding="utf-8") for path in Path("data/reviews").iterdir()} == made
    Path("data/reviews/prompts.jsonl").write_text("mine", encoding="utf-8")
    run_here(["recipes", "made", "--fetch"]).exits(3)


def test_a_missing_file_names_the_command_that_fetches_it(server: Server) -> None:
    run_here(["inspect", "made"]).exits(3, "fetch it with `tfkit recipes made --fetch`")


def test_a_missing_run_names_the_recipe_that_makes_it_and_a_file_of_several_its_own(in_tmp_path: None) -> None:
    said = "runs/bert-stdlib: there is no such folder; make it with `tfkit pretrain bert-stdlib`"
    run_here(["inspect", "python-packages"]).exits(4, said)
    for file, recipe in {"data/multi30k/train.en.gz": "transformer-2017-multi30k", "data/wikitext2/valid.txt": "smollm2-english"}.items():
        assert bundled.fetch_command(file) == f"tfkit recipes {recipe} --fetch"
    assert bundled.fetch_command("data/multi30k/mine.gz") is None


DERIVED = ("transformer-2017-python-docs-fr", "sums", "grpo-sums", "instructgpt-1.3b", "reward-hh", "dpo-chat")


def test_every_bundled_recipe_is_runnable_or_says_why_not() -> None:
    """Its data come with Python, from the Hub, or are fetched; derived ones say how they are made."""
    for recipe in bundled_recipes():
        if recipe.name.rpartition("/")[2] in DERIVED:
            with pytest.raises(ValueError, match="derived from its source; the first lines of the recipe say how"):
                fetching.sets_of(recipe)
            continue
        fetching.sets_of(recipe)
    files = [file for found in bundled.data_sets().values() for file in found.files]
    assert len(files) == len({file.path for file in files}) > 10
    assert all(file.url.startswith("https://") and len(file.hash) in (40, 64) for file in files)
    assert run_here(["recipes", "gpt2-stdlib", "--fetch"]).exits(0).out == "pretrain/gpt2-stdlib needs no data files\n"
    run_here(["recipes", "--fetch"]).exits(2)
