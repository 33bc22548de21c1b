"""The site, by Sphinx: `make site` builds it from README.md, the other Markdown files and the pages of docs/reference_pages.py.

The source folder is the repository, so that every relative link is the same in a clone, on a forge and in the site.
"""

import re
import shutil
from pathlib import Path
from typing import Any

AUTODOC = "docs/reference/library"  # whose source has directives alone

# The parts of the navigation, and the pages of each; self is the start page.
NAVIGATION = {
    "Start": ["What tfkit is <self>", "docs/tasks"],
    "Tutorial": ["docs/tutorial/README", "docs/tutorial/0*"],
    "How to": ["docs/recipes", "docs/data", "docs/evaluation", "docs/carbon", "docs/cluster", "docs/rewards"],
    "Reference": ["docs/cli", "docs/library", "AGENTS", "docs/reference/*"],
    "Results": ["recipes/README", "docs/transfer", "docs/instructgpt", "docs/decisions", "docs/performance", "docs/faults"],
    "Contributing": ["CONTRIBUTING", "docs/architecture", "benchmarks/README", "CHANGELOG"],
}

project = "tfkit"
html_title = "tfkit"
language = "en"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
autodoc_default_options = {
    **dict.fromkeys(("members", "undoc-members", "inherited-members"), True),
    "exclude-members": "__init__, __new__",  # results are made by tfkit alone
    "member-order": "bysource",
}
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
default_role = "literal"  # of docstrings
root_doc = "README"
include_patterns = ["[A-Z]*.md", "docs/**.md", "recipes/*.md", "benchmarks/*.md"]
exclude_patterns = [".*", "tests", "tfkit", "runs", "build", "docs/log.md"]  # docs/log.md is a diary, linked as a file
myst_heading_anchors = 4
smartquotes = False  # `--data` in a description is no dash

html_theme = "furo"
html_copy_source = False  # the Markdown files are beside their pages instead
html_use_index = False
html_show_sphinx = False
html_show_copyright = False
html_extra_path = ["llms.txt"]
html_static_path = ["site.css"]
html_css_files = ["site.css"]

# What axe finds in the pages of furo 2025.12 and Sphinx 9.0, and what it should be.
ACCESSIBLE = {
    "<pre>": '<pre tabindex="0">',  # a block of code that scrolls is reached by the keyboard
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Navigation">',
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',  # so is a wide table
    '<div id="search-results">': '<h1 class="visually-hidden">Search</h1><div id="search-results">',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
}


def setup(app: Any) -> None:
    """Connect what this site does beyond Sphinx."""
    app.add_config_value("navigation", NAVIGATION, "env")  # with another one all pages are read again
    app.connect("source-read", prepare)
    app.connect("build-finished", finish)


def prepare(app: Any, docname: str, source: list[str]) -> None:
    """Link docs/log.md as a file and other pages by their titles, and append the navigation to the start page, the README."""
    source[0] = re.sub(r"\]\(((?:\.\./)*(?:docs/)?log\.md)", r"](path:\1", source[0])
    source[0] = re.sub(r"\[[\w/-]+\.md\]\((?!path:)([^)]+)\)", r"[](\1)", source[0])  # [cli.md](cli.md#stages) is shown as Stages
    if docname == "CHANGELOG":  # which has every word, and would be the first result of most searches
        source[0] = f"---\nno-search: true\n---\n{source[0]}"
    if docname == root_doc:
        for caption, pages in NAVIGATION.items():
            source[0] += "\n".join(["\n", "```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", "", *pages, "```", ""])


def finish(app: Any, exception: Exception | None) -> None:
    """Put each Markdown file beside its page, make the start page index.html, and make the pages accessible."""
    from sphinx.writers.text import TextTranslator

    if exception:
        return
    out = Path(app.outdir)
    for docname in app.env.found_docs:
        shutil.copy(app.env.doc2path(docname), out / f"{docname}.md")
    writer = TextTranslator(app.env.get_and_resolve_doctree(AUTODOC, app.builder), app.builder)
    writer.document.walkabout(writer)
    (out / f"{AUTODOC}.md").write_text(writer.body, encoding="utf-8")
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if 'aria-label="Navigation"' not in text:  # an unchanged page of an earlier build has been mended
            for old, new in ACCESSIBLE.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
    shutil.copy(out / "README.html", out / "index.html")
