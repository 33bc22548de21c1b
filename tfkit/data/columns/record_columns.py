"""From the columns of a record to the roles of a row: by the names in a recipe, else by recognised names.

A name is a column, a path into one (`instances.0.input`), or a template of several (`translate English to French: {en}`); a list of
names is a list of their values (`[sol1, sol2]`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from tfkit.data.columns.column_errors import no_column, no_shape, unfit
from tfkit.data.columns.column_paths import MISSING, columns_of, look_up, value_of
from tfkit.data.columns.forms import Unfit, by_number, find_surrogate
from tfkit.data.columns.later_names import later_column, reads_later
from tfkit.data.columns.row_shapes import roles_of_shape, shapes_of
from tfkit.data.columns.row_text import input_key, row_text
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.columns.structured_forms import READERS
from tfkit.errors import DataError
from tfkit.recipe.schema.roles import TEXT, Role


class Record(NamedTuple):
    """One record of a source, unchanged, and its place."""

    values: Mapping[str, Any]
    place: str
    is_file: bool = False  # whether it is a whole text file


Records = Iterator[Record | BadRow]
_GOLD = "gold_label"  # of SNLI and similar data sets, in which "-" means that the annotators did not agree


@dataclass(frozen=True)
class Columns:
    """A map from roles to columns. `named`: those that the recipe names, by role; `beside`: those from parallel files."""

    roles: tuple[Role, ...] = TEXT
    named: Mapping[str, str | list[str]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    beyond_roles: ClassVar[tuple[str, ...]] = ()  # further keys of what is read

    def take(self, record: Record) -> Row | BadRow:
        """Return the row of a record; a bad one if a column is missing, or does not fit its role."""
        values: dict[str, Any] = {}
        roles = self._taken(record.values)
        if roles is None:
            return no_shape(shapes_of(self.roles, self.named), record.values, record.place)
        for role in roles:
            value, column = self._read(role, record.values)
            if value is MISSING:
                if role.required:
                    return self.missing(role, record.values, record.place)
                continue
            if isinstance(value, Unfit):
                return unfit(value, column, record.place, self.remedy(role))
            if position := find_surrogate(value):
                return BadRow(
                    "half a surrogate pair", f"{record.place}: column {column!r} holds half a surrogate pair at {position}; repair the row"
                )
            values[role.name] = value
        key = row_text(self.roles, values, bare=True) + ("\n" if record.is_file else "")
        return Row(row_text(self.roles, values), record.place, values, frozenset(self.named), key, input_key(self.roles, values))

    def read_of(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return for each role that a record has in its shape the column that it is taken from."""
        found = {role.name: self._read(role, values) for role in self._taken(values) or ()}
        return {name: column for name, (value, column) in found.items() if value is not MISSING}

    def check(self, found: Iterable[str], place: str) -> None:
        """Raise DataError if no column fits a role that every row must have."""
        names = dict.fromkeys([*found, *self.beside])

        def has(role: Role) -> bool:
            enough = all if role.name in self.named else any
            return enough(name in names or _root(name) in names for name in self._names(role)) or self._later(role, names) is not None

        roles = roles_of_shape(self.roles, self.named, has)
        if roles is None:
            raise DataError(no_shape(shapes_of(self.roles, self.named), names, place).message)
        for role in roles:
            if role.required and not has(role):
                raise DataError(self.missing(role, names, place).message)
        self.check_one_text(names, place)

    def check_one_text(self, names: Mapping[str, Any], place: str) -> None:
        """Raise DataError if several columns may each be the one text of a row, and there is no pair: the others would go unread.

        Also for the records of sources whose columns are not known in advance.
        """
        text, pair = (next((role for role in self.roles if role.name == name), None) for name in ("text", "pair"))
        if text is None or pair is None or {"text", "pair"} & self.named.keys():
            return
        found = [name for name in text.columns if name in names]
        if len(found) > 1 and not any(name in names for name in pair.columns):
            first, second = found[:2]
            raise DataError(
                f"{place}: the columns {first!r} and {second!r} may each be the text: name one with columns: {{text: NAME}}, or "
                f"both with columns: {{text: {first}, pair: {second}}}"
            )

    def wanted(self, found: Iterable[str]) -> list[str]:
        """Return those of the columns that are read."""
        read = {name for role in self.roles for name in self._names(role)}
        roots = {_root(name) for name in read}
        found = list(found)
        later = {self._later(role, found) for role in self.roles}
        return [name for name in found if name in read or name in roots or name in later]

    def kept(self, found: Iterable[str]) -> list[str]:
        """Return those of the columns that a record holds: here the ones that are read."""
        return self.wanted(found)

    def missing(self, role: Role, found: Mapping[str, Any], place: str) -> BadRow:
        """Error for a record that lacks a role's column; for a template or list of columns, it names the missing ones."""
        names = self._names(role)
        if role.name in self.named:
            no_such = [name for name in names if name not in found and _root(name) not in found]
            names = no_such or [name for name in names if look_up(name, found) is MISSING]
        template = next((name for name in self._given_names(role) if "{" in name), None)
        is_named = role.name in self.named
        return no_column(role, names, found, place, all_of_them=is_named, template=template, remedy=self.remedy(role))

    def remedy(self, role: Role) -> str:
        """Return how the recipe names a column for a role."""
        return "text: NAME" if role.name == "text" else f"columns: {{{role.name}: NAME}}"

    def fingerprint(self) -> str:
        """Return a string that is equal if the same records give the same rows.

        Tools that were only recognised are left out: a run of a version that did not read them continues, and an objective that shows them
        says so in its own fingerprint.
        """
        roles = [role for role in self.roles if role.form != "tools" or role.name in self.named]
        return "\0".join(f"{role.name}={self.named.get(role.name) or role.columns}" for role in roles)

    def _taken(self, values: Mapping[str, Any]) -> tuple[Role, ...] | None:
        """Return the roles of a record; None if it has no shape."""
        return roles_of_shape(self.roles, self.named, lambda role: self._find(role, values)[0] is not MISSING)

    def _given_names(self, role: Role) -> tuple[str, ...]:
        named = self.named.get(role.name)
        return () if named is None else (named,) if isinstance(named, str) else tuple(named)

    def _names(self, role: Role) -> list[str]:
        """Return the columns, or paths into them, from which a role is taken."""
        return [inner for name in (self._given_names(role) or role.columns) for inner in columns_of(name)]

    def _find(self, role: Role, values: Mapping[str, Any]) -> tuple[Any, str]:
        """Return a record's raw value for a role, and the name of the column."""
        if isinstance(several := self.named.get(role.name), list):
            parts = [value_of(name, values) for name in several]
            found: Any = dict(zip(several, parts, strict=True)) if role.form == "label_set" else parts  # a column may be a label
            return (MISSING if any(part is MISSING for part in parts) else found), ", ".join(several)
        for name in self._given_names(role) or role.columns:
            found = value_of(name, values)
            if found is not MISSING:
                return found, name
        later = self._later(role, values)
        return (MISSING, "") if later is None else (values[later], later)

    def _later(self, role: Role, names: Iterable[str]) -> str | None:
        """Return the column of a role that has none of its first names; of an optional one only if a required one is read so, too."""
        if role.name in self.named or not (role.required or reads_later(self.roles, self.named, names)):
            return None
        return later_column(role, names)

    def _read(self, role: Role, values: Mapping[str, Any]) -> tuple[Any, str]:
        """Return a role's value in a record, Unfit or missing, and the name of the column.

        An optional role is missing if its column holds null; if the recipe does not name it, also if it holds parts that are not text,
        as the `context` of HotpotQA, or a text that is no list of tools: another thing of the same name.
        """
        found, column = self._find(role, values)
        if found is MISSING:
            return found, column
        found = by_number(found) if role.by_number else found
        value = Unfit("a dash alone", "a label") if column == _GOLD and found == "-" else READERS[role.form](found)
        is_another = role.name not in self.named and (isinstance(found, Mapping | list) or role.form == "tools")
        if isinstance(value, Unfit) and not role.required and (found is None or is_another):
            return MISSING, column
        return value, column


def _root(name: str) -> str:
    return name.partition(".")[0]
