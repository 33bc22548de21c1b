"""The tutorial as one notebook, made from its pages.

    python benchmarks/tutorial_notebook.py              # writes docs/tutorial/tutorial.ipynb, beside the pictures that it shows

A file of a page becomes a cell that writes it, commands become a cell of bash; outputs are left to the reader.
No Jupyter is needed to make it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tutorial_pages import PAGES, Block, blocks, pages

START = """%mkdir -p work
%cd work"""


def notebook() -> dict[str, Any]:
    """Return the notebook, as nbformat 4.5 has it."""
    cells = [markdown((PAGES / "README.md").read_text(encoding="utf-8")), code(START)]
    for page in pages():
        cells += cells_of(page.read_text(encoding="utf-8"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel | {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def cells_of(text: str) -> list[dict[str, Any]]:
    """Return the cells of a page: its prose, its files and its commands. Outputs are left out, other blocks stay in the prose."""
    cells, at = [], 0
    before: Block | None = None
    for block in blocks(text):
        fence = text.rindex("```", 0, block.start)
        is_output = block.language == "text" and before is not None and before.language == "sh"
        if block.file_name or block.language == "sh" or is_output:
            cells.append(markdown(text[at:fence]))
            at = block.end + len("```")
            if block.file_name:
                cells.append(code(f"%%writefile {block.file_name}\n{block.text}"))
            elif block.language == "sh":
                cells.append(code(f"%%bash\n{block.text}"))
        before = block
    return [cell for cell in [*cells, markdown(text[at:])] if cell["source"]]


def markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip().splitlines(keepends=True)}


def code(text: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": text.strip("\n").splitlines(keepends=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=PAGES / "tutorial.ipynb", help="the notebook (default docs/tutorial/)")
    options = parser.parse_args()
    options.out.write_text(json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
