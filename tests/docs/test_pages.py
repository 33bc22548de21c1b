"""The Markdown files of the repository: links and anchors lead somewhere, and commands are ones that tfkit accepts."""

import inspect
import json
import os
import random
import re
import runpy
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
from ruamel.yaml import YAML
from schema_walk import walk
from tiny_runs import WORDS, Process, run_here

import tfkit
from tfkit import console
from tfkit.cli import COMMANDS, app, examples
from tfkit.data.formats.readers import FORMATS
from tfkit.data.formats.suffixes import FORMAT_OF
from tfkit.engine import listener
from tfkit.errors import TfkitError
from tfkit.recipe.bundled import find_bundled
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.sections import Recipe

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "reference"  # written by `make site`
PAGES = [
    path
    for folder, pattern in (("", "*.md"), ("docs", "**/*.md"), ("recipes", "*.md"), ("benchmarks", "*.md"))
    for path in sorted((ROOT / folder).glob(pattern))
    if GENERATED not in path.parents and path.name != "gpu-report.md"
]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
FENCE = re.compile(r"^( *)(```+|~~~+)(.*?)\n(.*?)^\1\2\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


def prose_and_code(text: str) -> tuple[str, list[str]]:
    """Return a page without its blocks of code, and the lines of those blocks that are commands of a shell or their output."""
    code = [found[4] for found in FENCE.finditer(text) if found[3].strip() in ("", "sh", "bash", "console", "shell")]
    text = FENCE.sub("\n", text)
    indented = re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)
    lines = [line for block in [*code, *indented] for line in block.replace("\\\n", " ").splitlines()]
    return re.sub(r"(?m)^ {4}.*$", "", text), lines


@cache
def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    text = FENCE.sub("\n", path.read_text(encoding="utf-8"))
    for heading in re.findall(r"^#{1,6} +(.*?)(?: +#+)?$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        number = next(n for n in range(1000) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def links(text: str) -> Iterator[str]:
    """Yield the targets of links and images, inline or by reference, outside code."""
    prose = INLINE.sub("", prose_and_code(text)[0])
    yield from re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", prose)
    yield from re.findall(r"^\[[^\]]+\]: +(\S+)$", prose, re.MULTILINE)
    yield from re.findall(r'<(?:img|a|source)\b[^>]*?\b(?:src|href)="([^"]+)"', prose)


def broken_links(page: Path, text: str, folder: Path) -> list[str]:
    """Return the relative links that lead to no file of the repository, or to no heading of a page."""
    broken = []
    for link in links(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (folder / name).resolve() if name else page
        if not target.exists() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_relative_link_and_anchor_leads_somewhere(path: Path) -> None:
    assert broken_links(path, path.read_text(encoding="utf-8"), path.parent) == []


def test_the_pages_for_programs_link_from_the_root_of_the_site() -> None:
    path = ROOT / "docs" / "llms.txt"
    text = path.read_text(encoding="utf-8")
    assert len([*links(text)]) > 15
    generated = [link for link in links(text) if (ROOT / link).is_relative_to(GENERATED)]  # which test_site.py finds in the site
    assert [link for link in broken_links(path, text, ROOT) if link not in generated] == []
    assert text.startswith("# tfkit\n\n> ")


def test_every_page_is_in_the_navigation_of_the_site_once() -> None:
    navigation = runpy.run_path(str(ROOT / "docs" / "conf.py"))["NAVIGATION"]
    entries = [entry.replace("What tfkit is <self>", "README") for pages in navigation.values() for entry in pages]
    listed = [path.relative_to(ROOT).as_posix() for entry in entries for path in ROOT.glob(f"{entry}.md") if path.parent != GENERATED]
    assert sorted(listed) == sorted(set(NAMES) - {"docs/log.md"})


def test_broken_links_are_found() -> None:
    page = ROOT / "docs" / "cli.md"
    text = "[a](no.md) [b](cli.md#no-such) [c](#exit-codes) ![d](no.svg) `[e](code.md)`\n\n    [f](code.md)\n\n"
    text += "[g](https://x.org) [h]\n\n[h]: gone.md\n"
    assert broken_links(page, text, page.parent) == ["no.md", "cli.md#no-such", "no.svg", "gone.md"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "docs/log.md"])
def test_every_column_of_a_table_has_a_name(name: str) -> None:
    """Which a screen reader says with each cell."""
    text, _ = prose_and_code((ROOT / name).read_text(encoding="utf-8"))
    heads = re.findall(r"^(\|.*\|) *\n\|[ :|-]+\|$", text, re.MULTILINE)
    assert [head for head in heads if re.search(r"\| *\|", head)] == []


def commands(lines: list[str]) -> Iterator[list[str]]:
    """Yield the words of each tfkit command in lines of code, without what is before it, a redirection, and what follows in a pipe."""
    for line in lines:
        if not re.match(r"\s*(?:\$ )?(?:(?:srun|torchrun) .*|.*[|;&] *)?tfkit [a-z]", line):
            continue
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|><;&")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words = [*lexer]
        except ValueError:
            continue  # output that looks like a command
        if "tfkit" in words:
            words = words[words.index("tfkit") + 1 :]
            end = next((n for n, word in enumerate(words) if set(word) <= set("|><;&")), len(words))
            yield words[:end]


def refusal(words: list[str]) -> str | None:
    """Return why tfkit refuses a command line, and None if it accepts it."""
    name, *rest = words
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, name)
    if command is None:
        return f"no command {name}"
    try:
        command.make_context(name, [word for word in rest if word != "..."])
    except Exception as error:  # the classes are those of the command line's own parser
        return str(getattr(error, "message", error)) or type(error).__name__
    finally:
        console.set_quiet(False)  # an option's callback acts as soon as the words are read
    recipe = rest[0] if rest and name in ("pretrain", "finetune", "sweep", "plan", "inspect", "check", "launch", "recipes") else ""
    if re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)+", recipe) and not recipe.endswith((".yaml", ".yml")) and find_bundled(recipe) is None:
        return f"no recipe {recipe}"
    keys = [word.partition("=")[0] for word in rest if re.match(r"[a-z_]+(\.\w+)*=", word)]
    unknown = [key for key in keys if not (is_key(key) or is_key(key.partition(".")[2]))]  # a stage's begins with its name
    return f"no key {unknown[0]}" if unknown else None


KEYS = {re.sub(r"\[\w+\]", "", path) for path, _, _ in walk(Recipe)} | {"model.from"}


def is_key(path: str) -> bool:
    """Return whether the path leads to a key of a recipe, perhaps in an item of a list, by its number."""
    return re.sub(r"\.\d+\b", "", path) in KEYS


def test_every_command_in_a_block_of_code_and_every_example_of_a_help_is_accepted() -> None:
    examples_of_helps = [line for command in COMMANDS for line in examples(command)]
    texts = [prose_and_code(path.read_text(encoding="utf-8"))[1] for path in PAGES]
    of_helps, of_pages = [*commands(examples_of_helps)], [words for lines in texts for words in commands(lines)]
    assert {" ".join(words): why for words in (*of_helps, *of_pages) if (why := refusal(words))} == {}
    assert (len(of_helps), len(of_pages) > 90) == (len(examples_of_helps), True)
    assert {words[0] for words in of_pages} >= COMMANDS.keys() - {"env"}
    named = [rest[0] for name, *rest in of_helps if rest and name in ("pretrain", "finetune", "inspect", "check", "recipes")]
    assert all(find_bundled(recipe) for recipe in named if not re.search(r"^-|/|\.yaml$", recipe))


@pytest.mark.parametrize("name", NAMES)
def test_every_option_that_a_sentence_names_with_its_command_exists(name: str) -> None:
    text, _ = prose_and_code((ROOT / name).read_text(encoding="utf-8"))
    group: Any = typer.main.get_command(app)
    unknown = []
    for _, span in INLINE.findall(text):
        if (found := re.match(r"tfkit ([a-z]+)\b", span)) and found[1] in COMMANDS:
            command = group.get_command(None, found[1])
            context = command.make_context(found[1], [], resilient_parsing=True)
            known = {option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)}
            unknown += [f"{found[1]} {option}" for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span) if option not in known]
    assert unknown == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("    tfkit pretrian demo", "no command"),
        ("    tfkit pretrain demo --no-such 3", "o such option"),
        ("    tfkit pretrain no-such-recipe", "no recipe"),
        ("    tfkit pretrain demo training.stepz=3", "no key training.stepz"),
        ("    tfkit finetune chain.yaml tune.training.adapter.rang=3", "no key tune.training.adapter.rang"),
        ("    tfkit average runs/demo --last two --out mean", "valid integer"),
        ("    cat rows | tfkit predict --from CKPT --dat - | head -1", "o such option"),
    ],
)
def test_a_command_that_tfkit_refuses_is_found(line: str, why: str) -> None:
    (words,) = commands(prose_and_code(f"Text:\n\n{line}\n")[1])
    assert why in (refusal(words) or "")


# -- AGENTS.md: its commands run, in their order; what it says of exit codes and errors is so; README is short

AGENTS = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
BEFORE, AFTER = [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", AGENTS, re.MULTILINE | re.DOTALL)]
MEASURED = ("pretrain", "finetune", "evaluate", "predict", "generate", "plan")  # carbon is not the subject


def write_data(folder: Path) -> None:
    """Write the files that the page's commands name."""
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=80)) for _ in range(40)]
    (folder / "book.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (folder / "other.txt").write_text(" ".join(draw.choices(WORDS, k=200)), encoding="utf-8")
    rows = [f"the {' '.join(draw.choices(WORDS[:6], k=4))} {label},{label}\n" for label in ("cat", "dog") * 20]
    (folder / "rows.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    (folder / "new.csv").write_text("text\nthe cat ran\na dog sat\n", encoding="utf-8")


@pytest.mark.thorough
def test_the_commands_run(tmp_path: Path) -> None:
    """Each ends with 0, and prints what it promises: one JSON document, or the file behind `>`."""
    write_data(tmp_path)
    assert (len(BEFORE), len(AFTER)) == (7, 9)
    run_lines(tmp_path, BEFORE)
    assert not (tmp_path / "runs").exists()
    assert json.loads((tmp_path / "recipe.schema.json").read_text())["$defs"]["Recipe"]
    run_lines(tmp_path, AFTER)
    assert (tmp_path / "labelled.csv").read_text(encoding="utf-8").startswith("text,prediction,probability")


def run_lines(folder: Path, lines: list[str]) -> None:
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        words, file = (words[:-2], folder / words[-1]) if ">" in words else (words, None)
        unmetered = [*words, "carbon.enabled=false"] if words[0] in MEASURED else words
        out = run_here(unmetered, folder).exits(0).out
        if file:
            file.write_text(out, encoding="utf-8")
        else:
            assert isinstance(json.loads(out), dict), line


def test_an_error_is_the_document_of_the_page() -> None:
    error = run_here(["check", "smoke", "training.stepz=3", "--json"]).exits(2).document["error"]
    [fields] = re.findall(r'`\{"error": \{(.*?)\}\}`', AGENTS)
    assert [f'"{name}"' for name in error] == fields.split(", ")
    assert f"`{error['kind']}`" in AGENTS


def test_every_exit_code_is_in_the_table_and_of_the_contract() -> None:
    contract = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    here, codes = (
        [{*re.findall(r"\d+", cell)} for cell in re.findall(r"^ *\| ([\d ,]+) \|", text, re.MULTILINE)] for text in (AGENTS, contract)
    )
    assert (here, len(codes)) == (codes, 11)
    assert {str(kind.exit_code) for kind in TfkitError.__subclasses__()} <= set().union(*codes)


def test_the_readme_is_short_and_has_one_picture() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    assert len(re.findall(r"!\[[^\]]+\]\(", readme)) == 1
    assert all(command in readme for command in ("make demo", "make test"))


# -- docs/data.md: its sources are sections of a recipe, for objectives that read what they name, and its formats are all that there are

DATA_PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SOURCES = re.findall(r"^\|[^|]+\| ([a-z_, ]+) \| `(\{.*\})` \|$", DATA_PAGE, re.MULTILINE)
assert len(SOURCES) == 9, "the page has its table"


@pytest.mark.parametrize(("objectives", "source"), SOURCES)
def test_a_source_of_the_page_is_one(objectives: str, source: str) -> None:
    section = SourceSection.model_validate(YAML(typ="safe").load(source))
    for kind in objectives.split(", "):
        roles = {role.name for role in SECTIONS[kind].roles}
        assert roles >= section.columns.keys()
        assert section.text is None or "text" in roles


def test_every_format_and_suffix_is_described() -> None:
    rows = re.findall(r"^\| (.*?) \| (`[a-z].*?) \| ", DATA_PAGE, re.MULTILINE)[1:]  # without the table's head
    documented = {suffix: name for suffixes, names in rows for suffix, name in _paired(suffixes, names)}
    assert {suffix: name for suffix, name in documented.items() if suffix.startswith(".")} == FORMAT_OF
    assert {name for _, names in rows for name in re.findall("[a-z]+", names)} == FORMATS.keys()


def _paired(suffixes: str, names: str) -> list[tuple[str, str]]:
    """Each suffix with its format: one for all, or one for each."""
    found, formats = re.findall(r"\.[a-z0-9]+", suffixes), re.findall("[a-z]+", names)
    return [(suffix, formats[i] if len(formats) > 1 else formats[0]) for i, suffix in enumerate(found)]


# -- docs/library.md: its examples run, in order, in one process; what it names is there

LIBRARY_PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.thorough
def test_the_examples_run(tmp_path: Path) -> None:
    """Each with the lines that it has in the page, which a traceback names."""
    blocks = [("\n" * LIBRARY_PAGE[: found.start(1)].count("\n") + found[1]) for found in BLOCK.finditer(LIBRARY_PAGE)]
    assert len(blocks) == 7

    def program(_: list[str]) -> int:
        os.chdir(tmp_path)
        names: dict[str, object] = {"__name__": "library"}
        for block in blocks:
            exec(compile(block, "docs/library.md", "exec"), names)
        return 0

    done = Process(tmp_path, [], program=program).wait().exits(0)
    assert "finished 12 " in done.out
    # Of the listener `console` alone.
    assert [line[:7] for line in done.err.splitlines() if line.startswith("step ")] == ["step 3/", "step 3:"]


def test_every_function_is_in_the_table_with_arguments_it_has() -> None:
    rows = dict(re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", LIBRARY_PAGE, re.MULTILINE))
    assert rows.keys() == set(tfkit.__all__) - {"__version__"}
    for name, arguments in rows.items():
        assert set(re.findall(r"\w+", arguments)) <= inspect.signature(getattr(tfkit, name)).parameters.keys(), name


def test_every_option_is_described() -> None:
    options = {
        parameter.name
        for name in set(tfkit.__all__) - {"__version__", "load"}
        for parameter in inspect.signature(getattr(tfkit, name)).parameters.values()
    }
    assert [name for name in sorted(options) if not re.search(rf"[`({{]{name}\b|\b{name}=", LIBRARY_PAGE)] == []


def test_the_console_and_the_silent_listener_have_every_method() -> None:
    """As the protocol has it: a type checker compares a user's listener with the class that it is derived from."""
    for protocol, name in ((listener.ProgressBar, "advance"), (listener.Live, "update")):
        assert inspect.signature(getattr(listener.Silent, name)) == inspect.signature(getattr(protocol, name))
    methods = [name for name in vars(listener.Listener) if not name.startswith("_")]
    assert set(methods) == {"say", "decided", "warn", "progress", "live"}
    for name in methods:
        expected = [*inspect.signature(getattr(listener.Listener, name)).parameters.values()][1:]
        assert [*inspect.signature(getattr(listener.Silent, name)).parameters.values()][1:] == expected
        assert [one.name for one in inspect.signature(getattr(console, name)).parameters.values()] == [one.name for one in expected]
