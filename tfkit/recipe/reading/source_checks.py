"""Checks of data sources: columns that are missing or that the objective does not read, and fields that would have no effect."""

from collections.abc import Iterator, Sequence

from tfkit.recipe.reading.tree import Path
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.roles import TEXT, Role
from tfkit.recipe.schema.sections import Recipe

# The columns of rows from the standard library, by the value of `stdlib`.
_STDLIB_COLUMNS: dict[bool | str, tuple[str, ...]] = {
    True: ("text",),
    "docstrings": ("source", "target", "name"),
    "token_roles": ("tokens", "tags"),
    "packages": ("text", "label"),
}


def source_problems(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Yield the problems of each source, with the paths of the fields."""
    for part in ("train", "validation", "pretraining"):
        sources = getattr(recipe.data, part)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            roles = TEXT if part == "pretraining" else recipe.objective.roles
            is_read = part != "train" or recipe.objective.reads_training
            columns = (*_columns(recipe, source, roles), *_stdlib(recipe, source, roles)) if is_read else ()
            for name, message in (*_unread_options(source), *columns):
                yield ("data", part, index, name), message
            if part != "validation" and source.name is not None:
                yield ("data", part, index, "name"), "only validation sets have names, in their metrics; remove it"
            if part == "validation" and source.weight != SourceSection.model_fields["weight"].default:
                yield ("data", part, index, "weight"), "only training reads some rows more often than others; remove it"


def _unread_options(source: SourceSection) -> Iterator[tuple[str, str]]:
    fields = SourceSection.model_fields
    if source.hub is None:
        for name in ("config", "split", "revision", "streamed"):
            if getattr(source, name) != fields[name].default:
                yield name, "only a hub source reads it; remove it"
    if source.path is None:
        for name in ("format", "header", "beside"):
            if getattr(source, name):
                yield name, "only a path source reads it; remove it"
    elif source.header and len(source.header) > 1 and source.format == "lines":
        yield "header", "a line has one column; remove the other names, or name parallel files in beside"
    elif source.header and source.format not in (None, "csv", "tsv", "conll", "lines"):
        yield "header", f"files of the format {source.format} have none; remove it"
    elif source.beside and source.format == "text":
        yield "beside", "a file that is one text has no lines for parallel files: set format: lines"
    if source.header and (twice := next((name for name in source.header if source.header.count(name) > 1), None)) is not None:
        yield "header", f"{twice!r} is given twice"
    if source.header and (both := next((name for name in source.beside if name in source.header), None)) is not None:
        yield "beside", f"{both!r} is in header, too; give the parallel column another name"
    if source.rows is not None and not source.streamed:
        yield "rows", "only a streamed hub source reads it: add streamed: true, or remove it"
    if source.stdlib is True and (source.text is not None or source.columns):
        yield ("text" if source.text is not None else "columns"), "the files of the standard library have no columns; remove it"


def _columns(recipe: Recipe, source: SourceSection, read: Sequence[Role]) -> Iterator[tuple[str, str]]:
    """Check that the objective reads the roles for which columns are named, and that no role has more columns than it can read."""
    roles = {role.name: role.form for role in read}
    for name, column in source.columns.items():
        if isinstance(column, list) and roles.get(name) in ("label", "messages", "answers", "tools"):
            yield "columns", f"{name} is read from one column: name one"
        if name not in roles:
            yield "columns", f"the objective {recipe.objective.kind} does not read {name!r}; it reads {', '.join(roles)}"
    if source.class_names is not None and all(role.form not in ("label", "labels") for role in read):
        yield "class_names", f"the objective {recipe.objective.kind} reads no classes; remove it"
    if source.text is not None and "text" not in roles:
        yield "text", f"the objective {recipe.objective.kind} reads no text; it reads {', '.join(roles)}: name them in columns"
    if source.text is not None and "text" in source.columns:
        yield "text", "is named in columns, too: remove one of the two"


def _stdlib(recipe: Recipe, source: SourceSection, roles: Sequence[Role]) -> Iterator[tuple[str, str]]:
    """Check that rows from the standard library have the columns that the objective reads, unless the recipe names other columns."""
    given = _STDLIB_COLUMNS.get(source.stdlib, ())
    named = {*source.columns, *(["text"] if source.text is not None else [])}
    present = {role for role in roles if role.name in named or set(role.columns) & set(given)}
    shapes = {role.shape for role in roles if role.shape} or {""}  # a row needs the roles of one shape (a group of roles) only
    needed = [{role for role in roles if role.required and role.shape in (None, shape)} for shape in shapes]
    if given and not any(present >= required for required in needed):
        has = "has no column but" if len(given) == 1 else "has the columns"
        reads = ", ".join(role.name for role in roles)
        yield "stdlib", f"{has} {', '.join(given)}, but the objective {recipe.objective.kind} reads {reads}"
