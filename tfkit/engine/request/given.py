"""The recipe of a run as the command line gave it: the text of RECIPE, and key=value.

run.json keeps it, since only a comparison with it shows what a resume changes: an edit of the file or a different key=value is a change, a
key=value that is left out the second time is not. Torch-free.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tfkit.recipe import RecipeText
from tfkit.recipe.reading.overrides import LENGTH


@dataclass(frozen=True)
class Given:
    """A recipe and its overrides; without a recipe, the overrides are all that is given."""

    recipe: RecipeText | None
    overrides: tuple[str, ...]

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """Read the result of `document`; None for anything else, as in run.json of an older version."""
        if not isinstance(document, dict) or document.keys() != {"recipe", "text", "overrides"}:
            return None
        recipe, text, overrides = document["recipe"], document["text"], document["overrides"]
        if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
            return None
        if isinstance(recipe, str) and isinstance(text, str):
            return cls(RecipeText(Path(recipe), text), tuple(overrides))
        return cls(None, tuple(overrides)) if recipe is None and text is None else None

    def document(self) -> dict[str, Any]:
        """Return the document for run.json."""
        path, text = (str(self.recipe.path), self.recipe.text) if self.recipe else (None, None)
        return {"recipe": path, "text": text, "overrides": list(self.overrides)}

    def sha256(self) -> str:
        """Return a hash that is the same for all ranks with the same recipe and overrides."""
        text = json.dumps([self.recipe.text if self.recipe else None, self.overrides])
        return hashlib.sha256(text.encode()).hexdigest()

    def followed_by(self, now: "Given") -> "Given":
        """Return the combination of this with a later `now`: the earlier recipe and overrides, changed by the edited file and by `now`."""
        new = [word for word in now.overrides if word == now._last(_key(word)) != self._last(_key(word))]
        edits: list[str] = []
        if self.recipe and now.recipe:
            before = self.recipe.fields()
            changed = {name: value for name, value in now.recipe.fields().items() if name not in before or before[name] != value}
            hidden = [name for name in changed if _touches(name, self.overrides) and not _touches(name, now.overrides)]
            edits = [f"{name}={json.dumps(changed[name], ensure_ascii=False)}" for name in hidden]
        return Given(now.recipe or self.recipe, (*self.overrides, *edits, *new))

    def _last(self, key: str) -> str | None:
        """Return the last override of a field, which holds; the units of the length are one field."""
        names = _alternatives(key)
        return next((word for word in reversed(self.overrides) if _key(word) in names), None)


def _key(word: str) -> str:
    return word.partition("=")[0].strip()


def _alternatives(name: str) -> tuple[str, ...]:
    """Return a field with its alternatives: the units of a length, also of a stage's, are one field."""
    for unit in LENGTH:
        if name == unit or name.endswith(f".{unit}"):
            return tuple(name.removesuffix(unit) + other for other in LENGTH)
    return (name,)


def _touches(name: str, overrides: Iterable[str]) -> bool:
    """Whether one of the overrides sets a field, a part of it, or its section; the units of the length are one field."""
    names = _alternatives(name)
    return any(
        field == key or field.startswith(f"{key}.") or key.startswith(f"{field}.") for key in map(_key, overrides) for field in names
    )
