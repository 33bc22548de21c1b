"""Labelled rows of the standard library: what is made of a file, and that no part holds what another gives."""

import ast
import re
import sysconfig
import zlib
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import Part, PartName, Row
from tfkit.data.sources import stdlib
from tfkit.data.sources.code_tasks import TASKS, parse, summary
from tfkit.data.sources.stdlib import StdlibTask
from tfkit.errors import DataError
from tfkit.recipe.schema.roles import Role

ROLES = {
    "docstrings": (Role("source", "text", ("source",)), Role("target", "text", ("target",))),
    "token_roles": (Role("tokens", "texts", ("tokens",)), Role("tags", "labels", ("tags",))),
    "packages": (Role("text", "text", ("text",)), Role("label", "label", ("label",))),
}


def found(task: str, code: str, path: str = "a.py") -> list[dict[str, Any]]:
    parsed = parse(dedent(code).encode())
    return [values for _, values in TASKS[task].find(path, *parsed)]


# ---------------------------------------------------------------------------------------------------------------- docstrings


def test_no_docstring_is_left_in_the_code() -> None:
    code = '''
    class Mast:
        """Holds a sail up."""

        def hoist(self, sail):
            """Pull a sail up (e.g. the jib) and
            tie it.  Then wait.

            :param sail: the sail.
            """

            def knot(n):
                "Tie knot number n twice."
                return n

            class Rope: "Something long"
            return [knot(1), Rope]  # ü

        def lower(self): "Let the sail down again."; return 0

        async def mend(self):
            """Sew the sail together."""  # slowly
            await self.yarn

        def later(self):
            """Do nothing for now."""

        def silent(self):
            return 1
    '''
    rows = {row["name"]: row for row in found("docstrings", code)}
    assert list(rows) == ["Mast.hoist", "Mast.hoist.knot", "Mast.lower", "Mast.mend"]
    assert rows["Mast.hoist"]["target"] == "Pull a sail up (e.g. the jib) and tie it."
    assert rows["Mast.hoist"]["source"] == dedent("""\
        def hoist(self, sail):
            def knot(n):
                return n

            class Rope: pass
            return [knot(1), Rope]  # ü""")
    assert rows["Mast.lower"] == {"source": "def lower(self): return 0", "target": "Let the sail down again.", "name": "Mast.lower"}
    assert rows["Mast.mend"]["source"] == "async def mend(self):\n    # slowly\n    await self.yarn"


def test_code_that_says_its_own_docstring_is_left_out() -> None:
    code = '''
    def tack(boat):
        """Turn through the wind."""
        # Turn through
        #   the wind!
        boat.turn()

    def gybe(boat):
        """Turn with the wind."""
        boat.turn()
    '''
    assert [row["name"] for row in found("docstrings", code)] == ["gybe"]


def test_the_first_sentence() -> None:
    for docstring, sentence in {
        "One two three": "One two three",
        "\n    One two\n    three.\n\n    Four five six.\n": "One two three.",
        "Read a.b and c. Then more.": "Read a.b and c.",
        "Use x, i.e. the y! No.": "Use x, i.e. the y!",
        **dict.fromkeys(("TODO", ">>> one two three", "word " * 61, "")),
    }.items():
        assert summary(docstring) == sentence


# ---------------------------------------------------------------------------------------------------------------- token roles


def test_every_token_has_its_role() -> None:
    code = """
    from os import (path as p,
        sep)
    @wrap
    async def lift(self, *args, höhe: int = 2, **more):
        '''Not a token.'''
        self.a.b = self.move(höhe, by=args[0])('x', f"long")
        await ü.call(äö := 3); import sys
    class Mast(Base, metaclass=abc.Meta):
        pass
    match = case(1)
    match match:
        case [Point(x=0)] if match.y:
            print(match)
    """
    rows = found("token_roles", code)
    pairs = [pair for row in rows for pair in zip(row["tokens"], row["tags"], strict=True)]
    found_by = {role: [token for token, tag in pairs if tag == role] for role in {tag for _, tag in pairs}}
    expected = {
        "import": "os path p sep sys",
        "function": "lift",
        "class": "Mast",
        "parameter": "self args höhe more",
        "argument": "by metaclass",
        "attribute": "a b Meta y",
        "call": "move call case print",
        "number": "2 0 3 1 0",
        "keyword": "from import as async def await import class pass match case if",
    }
    assert {role: " ".join(found_by[role]) for role in expected} == expected
    assert "'''Not a token.'''" not in found_by["string"]
    assert found_by["string"][0] == "'x'"
    assert found_by["variable"].count("match") == 4
    assert {"wrap", "int", "self", "ü", "äö", "Base", "Point", "x"} <= set(found_by["variable"])
    assert all(re.fullmatch(r"\W+", token) for token in found_by["operator"])


def test_rows_are_runs_of_whole_lines_and_long_strings_are_left_out() -> None:
    lines = "".join(f"v{i} = f({i}, {i}, {i})\n" for i in range(20))
    rows = found("token_roles", f"a = '{'x' * 80}'\n{lines}def f(a): return a\n")
    assert [len(row["tokens"]) for row in rows] == [40] * 5 + [8]
    assert [row["tokens"][0] for row in rows] == ["v0", "v4", "v8", "v12", "v16", "def"]


# ------------------------------------------------------------------------------------------------------------------- packages


def test_stretches_end_at_an_empty_line_and_hold_no_import() -> None:
    body = "".join(f"x{i} = {i}\n" + ("\n" if i % 10 == 9 else "") for i in range(70))
    rows = found("packages", f"import fleet.boat\n{body}try:\n    from fleet import (a,\n      b)\nexcept E:\n    c = 1\n", "fleet/boat.py")
    assert [row["text"].count("\n") + 1 for row in rows] == [32, 32, 14]
    assert {row["label"] for row in rows} == {"fleet"}
    assert "import" not in "".join(row["text"] for row in rows)
    assert found("packages", body, "alone.py") == []


# --------------------------------------------------------------------------------------------------------------------- parts


def write_tree(folder: Path) -> Path:
    """Forty files in three packages; in each a function of its own, and one that every file has, with white space of its own."""
    for number in range(40):
        path = folder / ("large" if number < 20 else "wide" if number < 34 else "small") / f"m{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        own = f'def own_{number}(x):\n    """Add the number {number} to it."""\n    return x + {number}\n'
        shared = f'def shared(x):\n    """Say it as file {number}."""\n    return{" " * (number + 1)}x\n'
        path.write_text(own + "\n" * 3 + shared + "\n" * 40 + "x = 1\n" * 12, encoding="utf-8")
    (folder / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (folder / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    return folder


def task(name: str, part: PartName, root: Path | None, fraction: float = 0.3) -> StdlibTask:
    return StdlibTask.find(name, Columns(ROLES[name]), Part(part, fraction), "error", root)


def files(rows: list[Row]) -> set[str]:
    return {row.place.partition(":")[0] for row in rows}


@pytest.mark.parametrize("name", TASKS)
def test_parts_share_neither_files_nor_what_is_given(name: str, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "lib")
    parts = {part: list(task(name, part, root).rows()) for part in ("train", "held_out", "all")}
    given = {part: [re.sub(r"\s+", " ", str(row.values[TASKS[name].input_column])) for row in rows] for part, rows in parts.items()}
    for texts in given.values():
        assert len(texts) == len(set(texts)) > 1, "each is given once"
    assert not set(given["train"]) & set(given["held_out"])
    assert not files(parts["train"]) & files(parts["held_out"])
    assert set(given["train"]) | set(given["held_out"]) == set(given["all"])
    assert [row.place for row in task(name, "train", root).rows()] == [row.place for row in parts["train"]]


def test_what_all_files_hold_is_held_out_if_one_of_them_is(tmp_path: Path) -> None:
    """Rows are counted, and files that do not parse."""
    root = write_tree(tmp_path / "lib")
    source = task("docstrings", "held_out", root)
    train, rows = [*task("docstrings", "train", root).rows()], [*source.rows()]
    assert [sum("shared" in row.values["source"] for row in part) for part in (train, rows)] == [0, 1]
    assert len(train) + len(rows) == 41
    assert f"{len(rows):,} rows of {len(files(rows))} files (held out); 2 files skipped that this Python cannot parse" in source.describe()
    assert rows[0].place.startswith("large/m")
    assert rows[0].place.endswith(":1")


def test_packages_of_few_files_are_left_out(tmp_path: Path) -> None:
    labels = {row.values["label"] for row in task("packages", "all", write_tree(tmp_path / "lib")).rows()}
    assert labels == {"large", "wide"}


def test_the_cache_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "lib")
    first = task("docstrings", "train", root)
    assert [row.text for row in task("docstrings", "train", root).rows()] == [row.text for row in first.rows()]
    monkeypatch.setattr("tfkit.data.sources.stdlib.parse", lambda content: pytest.fail("it is in the cache"))
    prints = {task("docstrings", part, root, fraction).fingerprint() for part in ("train", "held_out") for fraction in (0.3, 0.2)}
    assert len(prints) == 4
    assert first.fingerprint() in prints
    monkeypatch.undo()
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    (root / "large" / "m3.py").write_text('def more(x):\n    """Give what it is."""\n    return x\n', encoding="utf-8")
    assert task("docstrings", "train", root).fingerprint() not in prints
    for damaged in (first.folder / "records.jsonl", first.folder / "index.json"):
        damaged.write_bytes(damaged.read_bytes()[:-5])
    (root / "large" / "m3.py").unlink()
    write_tree(root)
    assert task("docstrings", "train", root).fingerprint() == first.fingerprint()
    assert len(list(first.rows())) > 20


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = StdlibTask.find("docstrings", Columns(), Part("all", 0.1), "error", write_tree(tmp_path / "lib"))
    with pytest.raises(DataError, match=r"large/m0.py:1: no column 'text'; columns found: source, target, name"):
        source.check()


# ------------------------------------------------------------------------------------------------------ the library that is here


def test_the_library_has_many_docstrings_and_none_of_them_in_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every sixth file of this Python's own library."""
    monkeypatch.setattr(
        stdlib, "_is_source", lambda path, root, whole=stdlib._is_source: zlib.crc32(path.name.encode()) % 6 == 0 and whole(path, root)
    )
    real = {part: list(task("docstrings", part, None, 0.1).rows()) for part in ("train", "held_out")}
    assert len(real["train"]) > 500
    assert len(real["held_out"]) > 20
    assert not {row.values["source"] for row in real["train"]} & {row.values["source"] for row in real["held_out"]}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for row in [*real["train"][::9], *real["held_out"]]:
        tree = ast.parse(row.values["source"])
        assert not any(ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)), row.place
        assert row.values["target"] not in row.values["source"]
        assert (Path(sysconfig.get_path("stdlib")) / row.place.partition(":")[0]).is_file()
