"""The reference of the site, from the code: commands from the Typer app, keys of a recipe from its JSON Schema; autodoc has the calls.

python docs/reference_pages.py FOLDER       # `make site` writes docs/reference, which git ignores
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from tfkit.cli import COMMANDS, app, examples
from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.recipe.json_schema import json_schema
from tfkit.recipe.schema.objective_facts import SECTIONS

CLASSES = (  # that the functions return or take
    *(f"tfkit.engine.results.{name}" for name in ("TrainingResult", "EvaluationResult", "SweepResult", "Completion")),
    "tfkit.engine.training_run.estimate.Estimate",
    "tfkit.engine.inference.loaded_model.LoadedModel",
    *(f"tfkit.engine.inference.attended_text.{name}" for name in ("AttendedText", "NextTokens")),
    "tfkit.engine.tools.averaging.Averaged",
    "tfkit.engine.listener.Listener",
)
MANY = 12  # values of a field that are not all listed
ANY = 10**6  # a limit that only refuses nonsense


def write_reference(folder: Path) -> None:
    """Write all pages, and nothing that a page before had and none has now."""
    single = {"commands.md": commands_page(), "columns.md": columns_page(), "presets.md": presets_page(), "library.md": library_page()}
    pages = {**recipe_pages(), **single}
    for stale in set(folder.rglob("*.md")) - {folder / name for name in pages}:
        stale.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
            path.write_text(text, encoding="utf-8")


def commands_page() -> str:
    """Return the arguments, options and examples of each command."""
    group: Any = typer.main.get_command(app)
    parts = ["What scripts may rely on, such as exit codes and results, is in [The command line](../cli.md)."]
    for name in COMMANDS:
        command = group.get_command(None, name)
        context = command.make_context(f"tfkit {name}", [], resilient_parsing=True)
        described = get_docs_for_click(obj=command, ctx=context, indent=1, name=name, call_prefix="tfkit")
        parts += [described.strip(), "**Examples**:", code("\n".join(examples(name)))]
    return page("Commands", *parts)


def recipe_pages() -> dict[str, str]:
    """Return a page for each section of a recipe, with the sections within it, and the list of all."""
    schema = json_schema()
    keys = RecipeKeys(schema["$defs"])
    sections = schema["$defs"]["Recipe"]["properties"]
    pages = {f"recipe/{name}.md": page(f"Keys of {name}", *keys.section(name, section)) for name, section in sections.items()}
    rows = [[f"[`{name}`](recipe/{name}.md)", plain(keys.summary(section))] for name, section in sections.items()]
    intro = (
        "A recipe has these sections, and states only what differs from the defaults. "
        "`tfkit check RECIPE` lists all errors of a recipe, and `tfkit check --schema` prints these pages as a JSON Schema."
    )
    contents = code("\n".join([":hidden:", "", *(f"recipe/{name}" for name in sections)]), "{toctree}")
    return {"recipe.md": page("Keys of a recipe", intro, table(["section", "meaning"], rows), contents), **pages}


class RecipeKeys:
    """The sections of a recipe as tables of their fields. A section that is used in several places is described in the first."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions
        self.described: set[str] = set()

    def section(self, path: str, schema: dict[str, Any]) -> Iterator[str]:
        """Yield the parts of the page of a section: each of its kinds, and then the sections that their fields hold."""
        if "items" in schema:
            yield "A list, whose items have these keys."
        waiting = [(path, name) for name in references(schema)]
        if waiting[1:]:
            yield plain(self.summary(schema))
        while waiting:
            where, name = waiting.pop(0)
            if name in self.described:
                continue
            self.described.add(name)
            definition = self.definitions[name]
            kind, fields = kind_of(definition), definition.get("properties", {})
            yield f"(key-{name})=\n## `{where}`" + (f", kind `{kind}`" if kind else "")
            yield paragraphs(definition.get("description", ""))
            rows = [
                [f"`{key}`", self._values(key, field, definition), plain(field.get("description", ""))] for key, field in fields.items()
            ]
            yield table(["key", "value", "meaning"], rows)
            waiting += [(f"{where}.{key}", inner) for key, field in fields.items() for inner in references(field)]

    def summary(self, schema: dict[str, Any]) -> str:
        """Return what a section is for; of several kinds, their names."""
        names = references(schema)
        if len(names) == 1:
            return str(schema.get("description") or self.definitions[names[0]]["description"]).partition("\n")[0]
        return "One of " + ", ".join(f"`{kind_of(self.definitions[name])}`" for name in names) + "."

    def _values(self, key: str, field: dict[str, Any], section: dict[str, Any]) -> str:
        """Return the values that a field may have, in words, and its default; a section has the defaults of its own fields."""
        if key in section.get("required", ()):
            return f"{self._type(field)}; required"
        if "default" not in field or isinstance(field["default"], dict):
            return self._type(field)
        return f"{self._type(field)}; default `{json.dumps(field['default'])}`"

    def _type(self, field: dict[str, Any]) -> str:
        if reference := field.get("$ref"):
            name = reference.rpartition("/")[2]
            return f"[{kind_of(self.definitions[name]) or words(name)}](#key-{name})"
        if union := field.get("anyOf") or field.get("oneOf") or field.get("allOf"):
            return " or ".join(dict.fromkeys(self._type(member) for member in union))
        if values := field.get("enum"):
            return ", ".join(f"`{value}`" for value in values[:MANY]) + (" and others" if values[MANY:] else "")
        if "const" in field:
            return f"`{field['const']}`"
        kind = {"array": "list", "object": "mapping"}.get(field.get("type", ""), field.get("type", "anything"))
        if kind == "list" and "items" in field:
            return "list of " + self._type(field["items"])
        bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
        limits = [f"{sign} {field[name]}" for name, sign in bounds.items() if name in field and abs(field[name]) < ANY]
        return plain(" ".join([kind, " and ".join(limits)]).strip())


def references(schema: Any) -> list[str]:
    """Return the names of the definitions to which a schema refers, itself or in its items and unions, in their order."""
    if isinstance(schema, list):
        return [name for one in schema for name in references(one)]
    if not isinstance(schema, dict):
        return []
    if "$ref" in schema:
        return [schema["$ref"].rpartition("/")[2]]
    return [name for key, value in schema.items() if key not in ("default", "discriminator") for name in references(value)]


def words(name: str) -> str:
    """Return the name of a definition as a reader may know it: LoraSection is lora."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub("^Model|Section$|Config$", "", name)).lower()


def kind_of(definition: dict[str, Any]) -> str | None:
    """Return the value of `kind` that chooses a member of a union; None if there is no such key, or several values."""
    kind: str | None = definition.get("properties", {}).get("kind", {}).get("const")
    return kind


def columns_page() -> str:
    """Return the parts of a row that each objective reads, with the names of columns by which they are recognised."""
    rows = []
    for kind, section in SECTIONS.items():
        for role in dict.fromkeys(section.roles):
            optional, shape = "" if role.required else ", if there is one", f"; of a row of the form {role.shape}" if role.shape else ""
            names = [" ".join(f"`{name}`" for name in some) for some in ((*role.within, *role.columns), role.later)]
            rows.append([f"`{kind}`", f"`{role.name}`{optional}{shape}", *names])
    intro = (
        "Of these names, the first that a row has is read. If it has none of them, the further names are tried, in any letter case. "
        "`columns` in a source, or `--columns` on the command line, names another column ([Data](../data.md#columns))."
    )
    return page("Columns", intro, table(["objective", "part of a row", "names", "further names"], rows))


def presets_page() -> str:
    """Return the sizes of all presets, with the Hub's names for them."""
    named: dict[str, list[str]] = {}
    for release, name in RELEASES.items():
        named.setdefault(name, []).append(release)
    keys = ("encoder_layers", "decoder_layers", "dim", "num_heads", "num_kv_heads", "context_length", "vocab_size")
    rows = []
    for name, (family, sizes) in PRESETS.items():
        counts = [f"{sizes[key]:,}" if sizes.get(key) else "" for key in keys]
        rows.append([f"`{name}`", family.name, *counts, " ".join(f"`{release}`" for release in named.get(name, ()))])
    intro = (
        "`model: {preset: NAME}` takes the architecture and the published sizes of a model, and random weights. "
        "Other keys of the section change it. The names on the Hub are accepted, too. `tfkit plan` counts the parameters. "
        "A checkpoint is not a preset: `tfkit finetune --from hub:NAME` starts from its weights."
    )
    return page("Presets", intro, table(["preset", "family", *(f"`{key}`" for key in keys), "names on the Hub"], rows))


def library_page() -> str:
    """Return the page whose text Sphinx takes from the docstrings: the functions of tfkit, and the results that they return."""
    intro = "The same functions with examples, in the order of their use: [tfkit as a library](../library.md)."
    parts = [".. automodule:: tfkit", *(f".. autoclass:: {name}" for name in CLASSES)]
    return page("The functions of tfkit", intro, *(code(part, "{eval-rst}") for part in parts))


# ------------------------------------------------------------------------------------------------------------------------------ Markdown


def page(title: str, *parts: str) -> str:
    """Return a page of parts, which are separated by blank lines."""
    return "\n\n".join([f"# {title}", *filter(None, parts)]) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table; a cell has no line break, and `|` only as an escape."""
    lines = [head, ["---"] * len(head), *([re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str, language: str = "text") -> str:
    """Return a block of code."""
    return f"```{language}\n{text}\n```"


def paragraphs(text: str) -> str:
    """Return a text of several paragraphs as Markdown."""
    return "\n\n".join(plain(part) for part in text.split("\n\n"))


def plain(text: str) -> str:
    """Return prose whose only markup is code in backticks, as Markdown; its line breaks are spaces."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]#$~])", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
