"""Mapping of a record's columns to roles (the parts of a row that an objective reads): by the names in a recipe, else by recognised names.

A name is a column, a path into a column (`instances.0.input`), or a template of several columns (`translate English to French: {en}`);
a list of names (`[sol1, sol2]`) gives the list of their values.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, NamedTuple

from tfkit.data.columns import forms, preference_forms, structured_forms
from tfkit.data.columns.column_names import MISSING, columns_of, find_alias, look_up, uses_alias, value_of
from tfkit.data.columns.forms import Unfit, by_number, find_surrogate, texts_of, with_class_names
from tfkit.data.columns.preference_forms import is_dialogue, opening
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.columns.structured_forms import first_turn
from tfkit.errors import DataError, argument
from tfkit.recipe.schema.roles import LABELS, TEXT, Role


class Record(NamedTuple):
    """The values of a record by column, before roles are read from them, and the record's place (such as file and line)."""

    values: Mapping[str, Any]
    place: str
    is_file: bool = False  # whether the record is a whole text file


Records = Iterator[Record | BadRow]
_MAX_NAMES = 20  # the largest number of columns that an error lists
_READERS = {**forms.READERS, **structured_forms.READERS, **preference_forms.READERS}
_GOLD = "gold_label"  # SNLI and similar data sets write "-" in this column if the annotators did not agree


@dataclass(frozen=True)
class Columns:
    """A mapping from roles to columns. `named`: the columns that the recipe names, by role; `beside`: columns that are read from parallel
    files, whose line n belongs to row n; `class_names`: the names of the classes 0, 1 and so on.
    """

    roles: tuple[Role, ...] = TEXT
    named: Mapping[str, str | list[str]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    beyond_roles: ClassVar[tuple[str, ...]] = ()  # if not empty, columns without a role are kept, too

    def take(self, record: Record) -> Row | BadRow:
        """Return the row of a record, or a BadRow if a required column is missing, or a value is unfit for its role or invalid Unicode."""
        values: dict[str, Any] = {}
        roles = self._roles_of(record.values)
        if roles is None:
            return self._no_shape(record.values, record.place)
        for role in roles:
            value, column = self._read(role, record.values)
            if value is MISSING:
                if role.required:
                    return self.missing(role, record.values, record.place)
                continue
            if isinstance(value, Unfit):
                problem = f"{value.found}, not {value.wanted}"
                return BadRow(
                    problem,
                    f"{record.place}: column {column!r} holds {problem}; name another column with {self.remedy(role)}, remove the row",
                )
            labels = value if isinstance(value, Mapping) else ()  # a `label_set` may be a mapping, whose keys are labels
            if position := find_surrogate(chain(labels, texts_of(value))):
                return BadRow(
                    "half a surrogate pair", f"{record.place}: column {column!r} holds half a surrogate pair at {position}; repair the row"
                )
            values[role.name] = value
        key = _row_text(self.roles, values, bare=True) + ("\n" if record.is_file else "")
        return Row(_row_text(self.roles, values), record.place, values, frozenset(self.named), key, _input_key(self.roles, values))

    def read_of(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the column from which each role is read in a record, by role; a role without a column in the record is left out."""
        reads = {role.name: self._read(role, values) for role in self._roles_of(values) or ()}
        return {name: column for name, (value, column) in reads.items() if value is not MISSING}

    def check(self, available: Iterable[str], place: str) -> None:
        """Raise DataError if the column of a required role is neither available nor in a parallel file, if a column that is read occurs
        twice, or if several columns could be the text.
        """
        available = list(available)
        self.check_unique(available, place)
        names = dict.fromkeys([*available, *self.beside])

        def has(role: Role) -> bool:
            enough = all if role.name in self.named else any
            inner = [] if role.name in self.named else role.within
            return (
                enough(name in names or _root(name) in names for name in (*self._names(role), *inner))
                or self._alias(role, names) is not None
            )

        roles = self._matching_roles(has)
        if roles is None:
            raise DataError(self._no_shape(names, place).message)
        for role in roles:
            if role.required and not has(role):
                raise DataError(self.missing(role, names, place).message)
        self.check_one_text(names, place)

    def check_unique(self, available: Sequence[str], place: str) -> None:
        """Raise DataError if a column that is read is twice in `available`: only one would be used. With `beyond_roles`, do nothing."""
        read = () if self.beyond_roles else self.select_kept(available)
        if duplicate := next((name for name in read if available.count(name) > 1), None):
            raise DataError(f"{place}: two columns are called {duplicate!r}, and only one would be used; rename one")

    def check_one_text(self, names: Mapping[str, Any], place: str) -> None:
        """Raise DataError if several columns could be the role `text`, but no column is the role `pair`, so only one would be used. If the
        recipe names the column of `text` or `pair`, nothing is checked.
        """
        text, pair = (next((role for role in self.roles if role.name == name), None) for name in ("text", "pair"))
        if text is None or pair is None or {"text", "pair"} & self.named.keys():
            return
        candidates = [name for name in text.columns if name in names]
        if len(candidates) > 1 and not any(name in names for name in pair.columns):
            first, second = candidates[:2]
            raise DataError(
                f"{place}: the columns {first!r} and {second!r} may each be the text: name one with columns: {{text: NAME}}, or "
                f"both with columns: {{text: {first}, pair: {second}}}"
            )

    def select_read(self, available: Iterable[str]) -> list[str]:
        """Return the available columns from which a role may be read."""
        read = {name for role in self.roles for name in (*self._names(role), *role.within)}
        roots = {_root(name) for name in read}
        available = list(available)
        aliases = {self._alias(role, available) for role in self.roles}
        return [name for name in available if name in read or name in roots or name in aliases]

    def select_kept(self, available: Iterable[str]) -> list[str]:
        """Return the available columns that a record keeps: here those that are read; a subclass may keep all."""
        return self.select_read(available)

    def missing(self, role: Role, available: Mapping[str, Any], place: str) -> BadRow:
        """Return the error for a record without a role's column. If the recipe names several columns, the error lists the missing ones."""
        names = self._names(role)
        if is_named := role.name in self.named:
            absent = [name for name in names if name not in available and _root(name) not in available]
            names = absent or [name for name in names if look_up(name, available) is MISSING]
        template = next((name for name in self._given_names(role) if "{" in name), None)
        wanted = (" and " if is_named else " or ").join(map(repr, names))
        for_template = "" if template is None else f" for the {role.name} {template!r}"
        return BadRow(
            f"no column {wanted}",
            f"{place}: no column {wanted}{for_template}; columns found: {_list_names(available)}; "
            f"name the one that holds the {role.name} with {self.remedy(role)}",
        )

    def _no_shape(self, available: Mapping[str, Any], place: str) -> BadRow:
        """Return the error for a record whose columns match none of the roles' shapes (`_shapes`)."""
        needed = [[role.name for role in roles if role.required] for roles in self._shapes()]
        wanted = ", nor for ".join(" and ".join(names) for names in needed)
        remedies = " or ".join("columns: {" + ", ".join(f"{name}: NAME" for name in names) + "}" for names in needed)
        return BadRow(
            f"no columns for {wanted}",
            f"{place}: no columns for {wanted}; columns found: {_list_names(available)}; name them with {remedies}",
        )

    def remedy(self, role: Role) -> str:
        """Return the recipe field that names the column of a role, with the command-line option if there is any, for error messages."""
        field = "text: NAME" if role.name == "text" else f"columns: {{{role.name}: NAME}}"
        option = argument("columns", {role.name: "NAME"})
        return f"{field} ({option})" if option.startswith("--") else field

    def fingerprint(self) -> str:
        """Return a string that differs between two mappings that would make different rows of the same records.

        Roles that earlier versions did not read, such as tools, are left out unless the recipe names their columns, so that runs of these
        versions can be resumed. An objective that uses tools has them in its own fingerprint.
        """
        roles = [role for role in self.roles if not role.is_later or role.name in self.named]
        names = [f"class_names={self.class_names}"] if self.class_names else []
        return "\0".join([*(f"{role.name}={self.named.get(role.name) or role.columns}" for role in roles), *names])

    def _roles_of(self, values: Mapping[str, Any]) -> tuple[Role, ...] | None:
        """Return the roles of the first shape (`_shapes`) that a record matches, and those without a shape; None if it matches no shape."""
        return self._matching_roles(lambda role: self._find(role, values)[0] is not MISSING)

    def _shapes(self) -> list[tuple[Role, ...]]:
        """Return the roles of each shape (a group of roles that occur together, such as a prompt and its completion). If the recipe names
        columns of some shapes, only these shapes are returned. Empty if no role has a shape.
        """
        by_shape: dict[str, list[Role]] = {}
        for role in self.roles:
            if role.shape is not None:
                by_shape.setdefault(role.shape, []).append(role)
        chosen = [shape for shape, members in by_shape.items() if any(role.name in self.named for role in members)]
        return [tuple(by_shape[shape]) for shape in chosen or by_shape]

    def _matching_roles(self, has: Callable[[Role], bool]) -> tuple[Role, ...] | None:
        """Return the roles of the first shape of which `has` accepts all required roles, and the roles without a shape; None if there
        is no such shape. If no role has a shape, return all roles.
        """
        shapes = self._shapes()
        if not shapes:
            return self.roles
        match = next((shape for shape in shapes if all(has(role) for role in shape if role.required)), None)
        return None if match is None else tuple(role for role in self.roles if role.shape is None or role in match)

    def _given_names(self, role: Role) -> tuple[str, ...]:
        named = self.named.get(role.name)
        return () if named is None else (named,) if isinstance(named, str) else tuple(named)

    def _names(self, role: Role) -> list[str]:
        """Return the columns, or paths into columns, from which a role may be read, except its aliases and nested columns (`within`)."""
        return [inner for name in (self._given_names(role) or role.columns) for inner in columns_of(name)]

    def _find(self, role: Role, values: Mapping[str, Any]) -> tuple[Any, str]:
        """Return a record's value for a role, not yet converted by a reader, or MISSING, and the name of the column or columns."""
        if isinstance(names := self.named.get(role.name), list):
            items = [value_of(name, values) for name in names]
            value: Any = items
            if role.form in ("label_set", "votes"):  # each of the named columns is for one label or vote
                value = dict(zip(names, items, strict=True))
            elif role.form == "choices" and not any(map(str.isdecimal, names)):  # a row may give the right answer as a column's name
                value = [{"text": item, "label": name} for name, item in zip(names, items, strict=True)]
            return (MISSING if any(item is MISSING for item in items) else value), ", ".join(names)
        for name in self._given_names(role) or (*role.within, *role.columns):
            value = value_of(name, values)
            if value is not MISSING:
                return value, name
        alias = self._alias(role, values)
        return (MISSING, "") if alias is None else (values[alias], alias)

    def _alias(self, role: Role, names: Iterable[str]) -> str | None:
        """Return the column that is an alias of a role, or None. An optional role has one only if a required role is read from an alias."""
        if role.name in self.named or not (role.required or uses_alias(self.roles, self.named, names)):
            return None
        return find_alias(role, tuple(names))

    def _read(self, role: Role, values: Mapping[str, Any]) -> tuple[Any, str]:
        """Return a role's value in a record, or Unfit or MISSING, and the name of the column.

        An optional role is MISSING if its column holds null and its reader does not accept null. If the recipe does not name its
        column, it is also MISSING if the column holds unrelated data under the same name: an unfit object or list (the `context` of
        HotpotQA), or, for the role `tools`, anything but a list of tools.
        """
        raw, column = self._find(role, values)
        if raw is MISSING:
            return raw, column
        raw = by_number(raw) if role.by_number else raw
        if self.class_names and role.form == "votes":
            raw = with_class_names(_READERS["literals"](raw), self.class_names)
            if isinstance(raw, Unfit):
                return raw, column
        value = Unfit("a dash alone", "a label") if column == _GOLD and raw == "-" else _READERS[role.form](raw)
        if self.class_names and role.form in ("label", "labels"):
            value = with_class_names(value, self.class_names)
        is_unrelated = role.name not in self.named and (isinstance(raw, Mapping | list) or role.form == "tools")
        if isinstance(value, Unfit) and not role.required and (raw is None or is_unrelated):
            return MISSING, column
        return value, column


def _list_names(available: Mapping[str, Any]) -> str:
    """Return the names of the available columns, at most `_MAX_NAMES`."""
    return ", ".join(map(str, list(available)[:_MAX_NAMES])) + (", ..." if len(available) > _MAX_NAMES else "") or "none"


def _root(name: str) -> str:
    return name.partition(".")[0]


def _row_text(roles: Sequence[Role], values: Mapping[str, Any], bare: bool = False) -> str:
    """Return all texts of a row, each on a line; a list of words, or of choices, is one line. `bare`: strip white space from each text.

    Labels are excluded, so rows that differ only in their labels have equal texts.
    """
    read = [(role.form, values[role.name]) for role in roles if role.name in values and role.form not in LABELS]
    texts = ((form, map(str.strip, texts_of(value)) if bare else texts_of(value)) for form, value in read)
    return "\n".join((" " if form in ("texts", "choices") else "\n").join(parts) for form, parts in texts)


def _input_key(roles: Sequence[Role], values: Mapping[str, Any]) -> str | None:
    """Return the stripped texts of a row's input, in a conversation up to the first user turn; None if the input is the whole row."""
    inputs = {role.name: values[role.name] for role in roles if role.is_input and role.name in values}
    if "messages" in inputs:
        inputs["messages"] = first_turn(inputs["messages"])
    elif turns := next((value for role in roles if role.form == "turns" and (value := values.get(role.name))), None):
        if not any(inputs.values()) and isinstance(turns, str) and not is_dialogue(turns):  # a plain completion without a prompt
            return None
        return "\n".join(map(str.strip, texts_of(opening(turns))))
    elif all(role.is_input or role.form in LABELS for role in roles if role.name in values):
        return None
    return _row_text(roles, inputs, bare=True)
