"""The site: its reference has every command, option and key, its pages need no network, and a broken link ends its build."""

import importlib.util
import inspect
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import tfkit
from tfkit.cli import COMMANDS, app, examples
from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.recipe.json_schema import json_schema
from tfkit.recipe.schema.objective_facts import SECTIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the pages of the reference."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "recipe").mkdir()
    (folder / "recipe" / "forgotten.md").write_text("# a section that is no more\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reference_pages.py", str(folder)])
        runpy.run_path(str(ROOT / "docs" / "reference_pages.py"), run_name="__main__")
    return folder


def test_every_command_is_described_with_its_options_and_examples(reference: Path) -> None:
    group: Any = typer.main.get_command(app)
    page = (reference / "commands.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^## `tfkit (\w+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert found.keys() == COMMANDS.keys()
    for name, text in found.items():
        context = group.get_command(None, name).make_context(name, [], resilient_parsing=True)
        options = {option for one in context.command.get_params(context) if one.param_type_name == "option" for option in one.opts}
        listed = {word for entry in re.findall(r"^\* `(.*?)`: .", text, re.MULTILINE) for word in re.split(r"[ ,/]+", entry)}
        assert options <= listed, name
        assert all(line in text for line in examples(name))


def unescaped(text: str) -> str:
    """Return a text without the backslashes of Markdown."""
    return re.sub(r"\\(.)", r"\1", text)


def test_every_key_of_a_recipe_has_a_row_with_its_description_and_default(reference: Path) -> None:
    definitions = json_schema()["$defs"]
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (reference / "recipe").iterdir()}
    assert pages.keys() == definitions.pop("Recipe")["properties"].keys()
    del definitions["Stage"]
    rows: dict[str, list[str]] = {}
    for row in (row for text in pages.values() for row in text.splitlines()):
        if found := re.match(r"\| `(\w+)` \|", row):
            rows.setdefault(found[1], []).append(unescaped(row))
    fields = [item for definition in definitions.values() for item in definition.get("properties", {}).items()]
    for key, field in fields:
        said = " ".join(field.get("description", "").split())
        default = json.dumps(field["default"]) if "default" in field and not isinstance(field["default"], dict) else ""
        assert any(unescaped(said) in row and unescaped(default) in row for row in rows[key]), (key, said)
    assert len(fields) == sum(map(len, rows.values())) > 250


def test_every_name_by_which_a_column_is_recognised_is_in_the_page_of_columns(reference: Path) -> None:
    text = (reference / "columns.md").read_text(encoding="utf-8")
    for kind, section in SECTIONS.items():
        rows = [row for row in text.splitlines() if row.startswith(f"| `{kind}` |")]
        for role in section.roles:
            assert any(f"| `{role.name}`" in row and all(f"`{name}`" in row for name in (*role.columns, *role.later)) for row in rows)


def test_every_preset_and_name_on_the_hub_is_in_the_page_of_presets(reference: Path) -> None:
    text = (reference / "presets.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)) == PRESETS.keys()
    for release, name in RELEASES.items():
        assert re.search(rf"^\| `{re.escape(name)}` \|.*`{re.escape(release)}`", text, re.MULTILINE), release


@pytest.fixture
def site(tmp_path: Path, reference: Path) -> Path:
    """Build the site in a copy of the repository's pages."""
    if not importlib.util.find_spec("furo") or not importlib.util.find_spec("myst_parser"):
        pytest.skip("needs the extra docs")
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", ".*_cache", "__pycache__", "dist", "build", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.copytree(reference, copy / "docs" / "reference", dirs_exist_ok=True)
    done = build(copy)
    assert done.returncode == 0, done.stderr
    return copy


def build(copy: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", "build/doctrees", "-c", "docs", ".", "build/site"]
    return subprocess.run(command, cwd=copy, check=False, capture_output=True, text=True)


def check_pages_without_network_or_mouse(site: Path) -> None:
    pages = sorted((site / "build" / "site").rglob("*.html"))
    assert len(pages) > 45
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//', text), path
        assert not re.findall(r'<link rel="(?:stylesheet|preload|icon)"[^>]*href="(?:https?:)?//', text), path
        assert ("<pre>" in text, 'role="heading">' in text) == (False, False), path
        assert '<aside class="sidebar-drawer" aria-label="Navigation">' in text
        assert not re.findall(r"<a [^>]*>(?:<[^>]*>)*(?!(?:docs/)?log)[\w/-]+\.md<", text), path  # pages are called by their titles
    for style in (site / "build" / "site").rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style


def check_markdown_links_and_search(site: Path) -> None:
    out = site / "build" / "site"
    assert (out / "index.html").read_bytes() == (out / "README.html").read_bytes()
    for link in re.findall(r"\]\(([^)]+)\)", (out / "llms.txt").read_text(encoding="utf-8")):
        assert ((out / link).is_file(), (out / link).with_suffix(".html").is_file()) == (True, True), link
    assert "log" not in {path.stem for path in out.rglob("*.html")}
    searched = (out / "searchindex.js").read_text(encoding="utf-8")
    assert all(word in searched for word in ("max_skipped_step", "budget_g", "predict"))


def check_library_page(site: Path) -> None:
    page = site / "build" / "site" / "docs" / "reference" / "library"
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    for name in set(tfkit.__all__) - {"__version__"}:
        (arguments,) = re.findall(rf"^tfkit\.{name}\(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
        for argument in inspect.signature(getattr(tfkit, name)).parameters:
            assert re.search(rf"^   \**{argument}: .*,$", arguments, re.MULTILINE), (name, argument)
    assert re.search(r"improvement: float \| None\n\n +\w.*checkpoint", text)
    assert 'id="tfkit.engine.inference.loaded_model.LoadedModel.embed"' in page.with_suffix(".html").read_text(encoding="utf-8")


def check_that_a_broken_link_ends_the_build(site: Path) -> None:
    page = site / "AGENTS.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(f"{text}\n[x](docs/none.md)\n\n[x](docs/cli.md#no-such-heading)\n\n![x](docs/none.svg)\n", encoding="utf-8")
    done = build(site)
    page.write_text(text, encoding="utf-8")
    assert done.returncode != 0
    for wrong in ("docs/none.md", "no-such-heading", "docs/none.svg"):
        assert re.search(rf"AGENTS\.md:\d+: WARNING: .*{wrong}", done.stderr), done.stderr


@pytest.mark.thorough
def test_the_site(site: Path) -> None:
    """Check the site in one test, since each worker that has one of several would build it anew."""
    check_pages_without_network_or_mouse(site)
    check_markdown_links_and_search(site)
    check_library_page(site)
    check_that_a_broken_link_ends_the_build(site)
