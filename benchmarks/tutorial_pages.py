"""The tutorial's pages: run their commands in order, and put the real output under each.

    python benchmarks/tutorial_pages.py                 # all pages, in the new folder tutorial-work
    python benchmarks/tutorial_pages.py 02 04           # these pages, in the folder that the earlier ones left

In a page, a block of Python or YAML whose first line is `# NAME` is a file that the reader saves. A block of `sh` holds commands; the
block of `text` after it is their output, written by this script, as is the time of a page, between `<!-- time -->` and `<!-- /time -->`:
the processor time of its commands with one thread, which is about the same on a busy machine. The commands find this Python's tfkit, and a
cache of their own in the folder, as a new reader's is empty.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).resolve().parent.parent / "docs" / "tutorial"
BLOCK = re.compile(r"^```(python|yaml|sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")
TIME = re.compile(r"(?<=<!-- time -->).*?(?=<!-- /time -->)")
_STEP = re.compile(r"step \d+/\d+ ")
_SHOWN_STEPS = 1  # lines of progress in a row; the others become one line of three dots


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its text, and where the text is in the page."""

    language: str
    text: str
    start: int
    end: int

    @property
    def file_name(self) -> str | None:
        """The file that the reader saves the block as, if it is one."""
        named = FILE_NAME.match(self.text)
        return named[1] if named else None


def pages(chosen: list[str] | None = None) -> list[Path]:
    """Return the numbered pages in order, or those whose names begin with one of these."""
    return [page for page in sorted(PAGES.glob("0*.md")) if not chosen or page.name.startswith(tuple(chosen))]


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in order."""
    return [Block(found[1], found[2], found.start(2), found.end(2)) for found in BLOCK.finditer(text)]


def run_page(text: str, work: Path, environment: Mapping[str, str]) -> str:
    """Save the page's files and run its commands in a folder; return the page with their output and time. Exits where a command fails."""
    written, at, seconds = [], 0, 0.0
    output: str | None = None  # of the commands before
    for block in blocks(text):
        if block.file_name:
            (work / block.file_name).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            output, took = run(block.text, work, environment)
            seconds += took
        elif block.language == "text" and output is not None:
            written += [text[at : block.start], output]
            at, output = block.end, None
    return TIME.sub(words_of(seconds), "".join([*written, text[at:]]))


def run(commands: str, work: Path, environment: Mapping[str, str]) -> tuple[str, float]:
    """Run commands in a folder; return what they print and their processor seconds."""
    before = processor_seconds()
    command = ["bash", "-e", "-c", commands]
    done = subprocess.run(
        command, cwd=work, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{commands}\n{done.stdout}\nended with {done.returncode}")
    return shown(done.stdout, work), processor_seconds() - before


def processor_seconds() -> float:
    """Return the processor time of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shown(output: str, work: Path) -> str:
    """Shorten the output for the page: names within the folder, one line of progress in a row, no spaces at ends of lines."""
    lines: list[str] = []
    steps = 0
    for line in output.replace(f"{work.resolve()}/", "").splitlines():
        steps = steps + 1 if _STEP.match(line) else 0
        if steps <= _SHOWN_STEPS:
            lines.append(line.rstrip())
        elif steps == _SHOWN_STEPS + 1:
            lines.append("...")
    return "\n".join(lines).strip("\n") + "\n"


def words_of(seconds: float) -> str:
    """Return a time as the pages state it."""
    if seconds < 50:
        return f"about {max(5, round(seconds / 5) * 5)} seconds"
    return f"about {seconds / 60:.1f} minutes".replace(".0 ", " ").replace("about 1 minutes", "about 1 minute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="NN", help="the numbers of pages; by default all")
    parser.add_argument("--work", type=Path, default=Path("tutorial-work"), help="the reader's folder (default %(default)s)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"OMP_NUM_THREADS": "1", "TFKIT_CACHE": str(options.work.resolve() / ".cache"), "PATH": path}
    for page in pages(options.pages):
        started = time.monotonic()
        page.write_text(run_page(page.read_text(encoding="utf-8"), options.work, environment), encoding="utf-8")
        print(f"{page.name}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
