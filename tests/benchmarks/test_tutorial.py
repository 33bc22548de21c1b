"""The tutorial: its pages and its notebook run at a tiny size, its pictures can be drawn, and its pages are whole."""

import json
import os
import re
import runpy
import socket
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tutorial_notebook
import tutorial_pages
import tutorial_pictures
from tiny_runs import Program

from tfkit.__main__ import main

# What makes the commands of the pages tiny; given after the words of the page, so that it wins.
TINY = {
    "pretrain": ["training.steps=3", "training.batch_size=4", "schedule.warmup_steps=1", "evaluation={every: 2, max_tokens: 300}"],
    "sweep": ["training.steps=3", "schedule.warmup_steps=1", "evaluation={every: 2, max_tokens: 300}", "checkpoint.every=2"],
    "finetune": ["--rows", "24", "training.epochs=1"],
    "plan": ["model.decoder_layers=1", "model.dim=64", "model.num_heads=4", "model.context_length=64"],
}
TINY["pretrain"] += ["checkpoint.every=2", "model.dim=16", "tokenizer.vocab_size=400", "generation.max_new_tokens=4"]
TINY["sweep"] += ["tokenizer.vocab_size=400"]
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(ADDRESS)
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(9)))
"""
PAGES = tutorial_pages.pages()


def run_script(words: list[str]) -> int:
    """Do what `python` does with the name of a script."""
    runpy.run_path(words[0], run_name="__main__")
    return 0


class _Forks(socketserver.StreamRequestHandler):
    """Runs tfkit or a script for CLIENT in a fork of this process, which takes half a second and a new interpreter three."""

    def handle(self) -> None:
        _, files, _, _ = socket.recv_fds(self.connection, 1, 3)
        (command, *words), folder, environment = json.load(self.rfile)
        if command == "tfkit" and words[0] in TINY:
            words += [*TINY[words[0]], "carbon.enabled=false"]
        program = {"tfkit": main, "python": run_script}[command]
        stdin, stdout, stderr = files
        done = Program(words, program=program, cwd=folder, env=environment, stdin=stdin, stdout=stdout, stderr=stderr)
        for file in files:
            os.close(file)
        self.wfile.write(b"%d" % done.wait())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the environment in which `tfkit` adds to the words of the pages what makes them tiny, and `python` is as fast."""
    folder = tmp_path_factory.mktemp("bin")
    with tempfile.TemporaryDirectory() as short, socketserver.ThreadingUnixStreamServer(f"{short}/forks", _Forks) as server:
        (folder / "client.py").write_text(CLIENT.replace("ADDRESS", repr(server.server_address)), encoding="utf-8")
        for name in ("tfkit", "python"):
            (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} -IS {folder}/client.py {name} "$@"\n', encoding="utf-8")
            (folder / name).chmod(0o755)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TFKIT_CACHE": str(folder / "cache"),
        }
        server.shutdown()


@pytest.mark.thorough
def test_every_command_of_every_page_runs_and_every_picture_can_be_drawn(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, written = tmp_path / "work", tmp_path / "pages"
    work.mkdir()
    written.mkdir()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        ran = tutorial_pages.run_page(text, work, environment)
        (written / page.name).write_text(ran, encoding="utf-8")
        assert without_outputs(ran) == without_outputs(text)
    monkeypatch.setattr(tutorial_pictures, "PAGES", written)
    for name, draw in tutorial_pictures.PICTURES.items():
        assert_readable(str(draw(work)), name)


def sources(kind: str) -> list[str]:
    """Return the cells of a kind, as they are read from the notebook's file."""
    made = json.loads(json.dumps(tutorial_notebook.notebook()))
    return ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == kind]


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(environment: dict[str, str], tmp_path: Path) -> None:
    cells = sources("code")
    assert cells[0] == tutorial_notebook.START
    for cell in cells[1:]:
        magic, _, text = cell.partition("\n")
        if magic == "%%bash":
            tutorial_pages.run(text, tmp_path, environment)
        else:
            assert magic.startswith("%%writefile ")
            (tmp_path / magic.split()[1]).write_text(text, encoding="utf-8")


def test_the_notebook_has_all_files_and_commands_of_the_pages_in_order() -> None:
    """And their prose, but not their outputs."""
    blocks = [block for page in PAGES for block in tutorial_pages.blocks(page.read_text(encoding="utf-8"))]
    wanted = [block.text.rstrip("\n") for block in blocks if block.file_name or block.language == "sh"]
    assert [cell.partition("\n")[2] for cell in sources("code")[1:]] == wanted
    prose = "\n".join(sources("markdown"))
    assert all(page.read_text(encoding="utf-8").splitlines()[0] in prose for page in PAGES)
    assert "```" not in prose


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_whole(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    number = int(page.name[:2])
    assert text.startswith(f"# {number}. ")
    parts = ["**You will see:**", "**Time:** <!-- time -->about ", "](" + page.stem + ".svg)", "## What you learned", "**To try:**"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert re.search(r"!\[[^\]]{60,}\]\(" + re.escape(page.stem) + r"\.svg\)", text), "a picture needs words that replace it"
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    blocks = tutorial_pages.blocks(text)
    assert any(block.language == "sh" for block in blocks)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language == "sh":
            assert (following.language, bool(following.text.strip())) == ("text", True), f"no output below {block.text}"
            assert not re.search("/tmp/|other processes compete", following.text)


def test_every_page_has_its_picture_which_is_small_and_readable() -> None:
    assert ([page.stem for page in PAGES], len(PAGES)) == ([*tutorial_pictures.PICTURES], 8)
    for page in PAGES:
        assert_readable(page.with_suffix(".svg").read_text(encoding="utf-8"), page.stem)


def test_progress_is_shortened_and_the_readers_folder_is_not_named(tmp_path: Path) -> None:
    lines = [f"step {number}/50  loss 1" for number in (10, 20, 30, 40, 50)]
    said = "\n".join(["", f"saved {tmp_path}/runs/x  ", *lines, "step 50: validation loss 2", lines[0]])
    assert tutorial_pages.shown(said, tmp_path).splitlines() == ["saved runs/x", lines[0], "...", "step 50: validation loss 2", lines[0]]


def test_times_are_rounded() -> None:
    for seconds, words in {1: "about 5 seconds", 12: "about 10 seconds", 60: "about 1 minute", 90: "about 1.5 minutes"}.items():
        assert tutorial_pages.words_of(seconds) == words


def without_outputs(text: str) -> str:
    """Return a page without the outputs of its commands and its time."""
    for block in reversed(tutorial_pages.blocks(text)):
        if block.language == "text":
            text = text[: block.start] + text[block.end :]
    return tutorial_pages.TIME.sub("", text)


def assert_readable(picture: str, name: str) -> None:
    """Assert that a picture is an SVG of under 60 kB with a title and its own background, and that nothing lies outside it."""
    assert len(picture.encode()) < 60_000, name
    root = ElementTree.fromstring(picture)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme: dark" in picture
    for x, y in places(root):
        assert (-1 <= x <= width + 1, -1 <= y <= height + 1) == (True, True), (name, x, y)


def places(root: ElementTree.Element) -> Iterator[tuple[float, float]]:
    """Yield the places of words, points and corners; of words also where they end, if a letter is half as wide as it is high."""
    for part in root.iter():
        at = part.attrib
        if part.tag.endswith("text"):
            x, y = float(at["x"]), float(at["y"])
            length = 6.6 * len(part.text or "")
            back, turned = {"start": 0.0, "middle": 0.5, "end": 1.0}[at["text-anchor"]] * length, "transform" in at
            yield from ((x, y), (x, y - length + back) if turned else (x - back + length, y), (x, y + back) if turned else (x - back, y))
        elif part.tag.endswith("rect"):
            x, y = float(at.get("x", 0)), float(at.get("y", 0))
            yield from ((x, y), (x + float(at["width"]), y + float(at["height"])))
        elif part.tag.endswith("polyline"):
            yield from (tuple(map(float, corner.split(","))) for corner in at["points"].split())
        elif part.tag.endswith("circle"):
            yield float(at["cx"]), float(at["cy"])
