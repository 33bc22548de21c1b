"""The lineage of a model in tfkit.json: its own energy and emissions up to that checkpoint, its parents, and all of their ancestors.

    "lineage": {"training": "fine-tuning",
                "parents": [{"role": "start", "path": "runs/base", "run_id": ..., "sha256": ...}],
                "own": {"energy_kwh": ..., "emissions_g": ..., "seconds": ..., "status": "ok", "provenance": ..., "intensity": {...}},
                "ancestors": [{"name": "base", "roles": ["start"], "run_id": ..., "sha256": ..., "energy_kwh": ..., "emissions_g": ...,
                               "source": "ledger", "status": "ok", "parents": [1]}, ...]}

Each ancestor is listed once, however many paths lead to it, so the list is complete without the ancestors' folders.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tfkit.carbon.reading import Reading

Source = Literal["ledger", "card", "unknown"]
_MOST_ANCESTORS = 10_000
_LONGEST = 1000  # characters of a name, a path or an identity
_LARGEST = 1e18  # grams, kWh or seconds: more than any real amount


@dataclass(frozen=True)
class OwnTotals:
    """The totals of a run up to a checkpoint, over all attempts; None: not measured."""

    energy_kwh: float | None
    emissions_g: float | None
    seconds: float | None
    status: str  # ok; degraded: a lower bound; failed, off: not measured
    provenance: str = ""
    intensity: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, reading: Reading, intensity: Mapping[str, Any]) -> "OwnTotals":
        """Take the totals from the meter's reading; `intensity`: the carbon intensity of the emissions."""
        if reading.outcome not in ("ok", "degraded"):
            return cls(None, None, None, reading.outcome)
        return cls(reading.energy_wh / 1000, reading.emissions_g, reading.seconds, reading.outcome, reading.provenance, intensity)

    def document(self) -> dict[str, Any]:
        """Return the entry in tfkit.json."""
        names = ("energy_kwh", "emissions_g", "seconds", "status", "provenance")
        return {name: getattr(self, name) for name in names} | {"intensity": dict(self.intensity) if self.intensity else None}


@dataclass(frozen=True)
class Ancestor:
    """A run or a published model from which a model was made. `parents` are positions in the same list."""

    name: str
    roles: tuple[str, ...]
    run_id: str | None = None
    sha256: str | None = None  # of the weights and the configuration
    others: tuple[str, ...] = ()  # SHA-256 of further checkpoints of the same run
    energy_kwh: float | None = None
    emissions_g: float | None = None
    source: Source = "unknown"
    status: str = "unknown"  # ok; degraded: a lower bound; any other: not measured
    parents: tuple[int, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether its emissions are known completely, not as a lower bound."""
        return self.emissions_g is not None and self.status == "ok"

    def document(self) -> dict[str, Any]:
        """Return the entry in tfkit.json."""
        names = ("name", "run_id", "sha256", "energy_kwh", "emissions_g", "source", "status")
        lists = {"roles": list(self.roles), "parents": list(self.parents)} | ({"others": list(self.others)} if self.others else {})
        return {name: getattr(self, name) for name in names} | lists


@dataclass(frozen=True)
class Inherited:
    """The sums over distinct ancestors; None if none is known. `energy_kwh` lacks ancestors whose card states only emissions."""

    energy_kwh: float | None
    emissions_g: float | None
    is_lower_bound: bool  # the emissions of an ancestor are unknown, or a lower bound

    def fields(self) -> dict[str, Any]:
        """Return the fields of a result (docs/cli.md)."""
        return {
            "inherited_g": self.emissions_g,
            "inherited_kwh": self.energy_kwh,
            "inherited_is_lower_bound": self.is_lower_bound,
        }


@dataclass(frozen=True)
class Lineage:
    """The lineage of one checkpoint. `own` and `ancestors` are None in files of older versions, which recorded only the parents."""

    training: str  # pre-training or fine-tuning
    parents: tuple[Mapping[str, Any], ...]  # role, path, run_id and sha256 of each model that the run began with
    own: OwnTotals | None
    ancestors: tuple[Ancestor, ...] | None

    def document(self) -> dict[str, Any]:
        """Return the entry in tfkit.json."""
        own = {"own": self.own.document()} if self.own is not None else {}
        ancestors = {"ancestors": [ancestor.document() for ancestor in self.ancestors]} if self.ancestors is not None else {}
        return {"training": self.training, "parents": [dict(parent) for parent in self.parents], **own, **ancestors}


def sum_inherited(ancestors: Sequence[Ancestor]) -> Inherited:
    """Return the sums over ancestors, each of which occurs once."""
    grams = [ancestor.emissions_g for ancestor in ancestors if ancestor.emissions_g is not None]
    energy = [ancestor.energy_kwh for ancestor in ancestors if ancestor.energy_kwh is not None]
    is_lower_bound = not all(ancestor.is_whole for ancestor in ancestors)
    return Inherited(sum(energy) if energy else None, sum(grams) if grams else None, is_lower_bound)


def merge_ancestors(entries: Sequence[Ancestor], without: Collection[str] = ()) -> tuple[Ancestor, ...]:
    """Return each ancestor once, in the order of `entries`, without the runs whose ids are in `without`.

    Entries of one run are one ancestor, with the largest total among them. An entry without a run id, such as a copy that lost its
    tfkit.json, is identified by its SHA-256, and without that by its name. `parents` are positions in `entries`.
    """
    runs = {sha256: entry.run_id for entry in entries if entry.run_id is not None for sha256 in _hashes(entry)}
    groups: dict[tuple[str, str], list[Ancestor]] = {}
    keys = [_identity(entry, runs) for entry in entries]
    for key, entry in zip(keys, entries, strict=True):
        if key[0] != "run" or key[1] not in without:
            groups.setdefault(key, []).append(entry)
    positions = {key: index for index, key in enumerate(groups)}
    merged = []
    for key, group in groups.items():
        parents = dict.fromkeys(positions[keys[parent]] for entry in group for parent in entry.parents if keys[parent] in positions)
        parents.pop(positions[key], None)
        merged.append(replace(_merge(group), parents=tuple(parents)))
    return tuple(merged)


def shifted(ancestors: Sequence[Ancestor], by: int) -> list[Ancestor]:
    """Return the ancestors with `by` added to the positions of their parents, to be appended to a list of `by` others."""
    return [replace(ancestor, parents=tuple(parent + by for parent in ancestor.parents)) for ancestor in ancestors]


def position(ancestors: Sequence[Ancestor], run_id: Any, sha256: Any) -> int | None:
    """Return the position of the ancestor with this run id or SHA-256; None if it is not in the list."""
    for index, ancestor in enumerate(ancestors):
        if (run_id is not None and ancestor.run_id == run_id) or (sha256 is not None and sha256 in _hashes(ancestor)):
            return index
    return None


def parse_lineage(document: Any) -> Lineage:
    """Read the field `lineage` of a tfkit.json, of this version or an older one. Raises ValueError if it is invalid."""
    if not isinstance(document, dict):
        raise ValueError("lineage is not an object")
    parents = document.get("parents", [])
    if not isinstance(parents, list) or not all(isinstance(parent, dict) for parent in parents) or len(parents) > _MOST_ANCESTORS:
        raise ValueError("lineage.parents is not a list of objects")
    fields = ("role", "path", "run_id", "sha256")
    checked = [{name: _text(parent.get(name), f"lineage.parents: {name}") for name in fields} for parent in parents]
    own, ancestors = document.get("own"), document.get("ancestors")
    training = document.get("training")
    return Lineage(
        training if isinstance(training, str) else "",
        tuple(checked),
        None if own is None else _own(own),
        None if ancestors is None else _ancestors(ancestors),
    )


def _hashes(ancestor: Ancestor) -> list[str]:
    """Return the known SHA-256 of its checkpoints."""
    return [sha256 for sha256 in (ancestor.sha256, *ancestor.others) if sha256 is not None]


def _identity(ancestor: Ancestor, runs: Mapping[str, str]) -> tuple[str, str]:
    """Return a key that is equal for entries of the same ancestor; `runs`: run ids by SHA-256."""
    if ancestor.run_id is not None:
        return "run", ancestor.run_id
    if ancestor.sha256 is None:
        return "name", ancestor.name
    return ("run", runs[ancestor.sha256]) if ancestor.sha256 in runs else ("content", ancestor.sha256)


def _merge(group: Sequence[Ancestor]) -> Ancestor:
    """Merge the entries of one ancestor: keep the largest total, and the roles of all."""
    largest = max(group, key=lambda entry: (-1.0 if entry.emissions_g is None else entry.emissions_g, entry.source == "ledger"))
    run_id = next((entry.run_id for entry in group if entry.run_id is not None), None)
    sha256, *others = dict.fromkeys(sha256 for entry in (largest, *group) for sha256 in _hashes(entry)) or (None,)
    roles = tuple(dict.fromkeys(role for entry in group for role in entry.roles))
    return replace(largest, name=group[0].name, roles=roles, run_id=run_id, sha256=sha256, others=tuple(map(str, others)))


def _own(document: Any) -> OwnTotals:
    if not isinstance(document, dict):
        raise ValueError("lineage.own is not an object")
    energy, grams, seconds = (_amount(document.get(name), f"lineage.own.{name}") for name in ("energy_kwh", "emissions_g", "seconds"))
    status, provenance = (_text(document.get(name), f"lineage.own.{name}") for name in ("status", "provenance"))
    intensity = document.get("intensity")
    return OwnTotals(energy, grams, seconds, status or "unknown", provenance or "", intensity if isinstance(intensity, dict) else None)


def _ancestors(document: Any) -> tuple[Ancestor, ...]:
    if not isinstance(document, list) or len(document) > _MOST_ANCESTORS:
        raise ValueError(f"lineage.ancestors is not a list of at most {_MOST_ANCESTORS:,} objects")
    return tuple(_ancestor(entry, f"lineage.ancestors[{index}]", len(document)) for index, entry in enumerate(document))


def _ancestor(document: Any, where: str, count: int) -> Ancestor:
    if not isinstance(document, dict):
        raise ValueError(f"{where} is not an object")
    name, run_id, sha256, status = (_text(document.get(field), f"{where}.{field}") for field in ("name", "run_id", "sha256", "status"))
    source = document.get("source")
    parents = document.get("parents", [])
    if source not in ("ledger", "card", "unknown"):
        raise ValueError(f"{where}.source is {source!r:.80}, and not ledger, card or unknown")
    if not isinstance(parents, list) or not all(type(parent) is int and 0 <= parent < count for parent in parents):
        raise ValueError(f"{where}.parents are not positions in the list of ancestors")
    energy, grams = (_amount(document.get(field), f"{where}.{field}") for field in ("energy_kwh", "emissions_g"))
    roles, others = (_texts(document.get(field, []), f"{where}.{field}") for field in ("roles", "others"))
    return Ancestor(name or "", roles, run_id, sha256, others, energy, grams, source, status or "unknown", tuple(parents))


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and len(text) <= _LONGEST for text in value):
        raise ValueError(f"{where} is not a list of texts")
    return tuple(value)


def _text(value: Any, where: str) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= _LONGEST):
        raise ValueError(f"{where} is {value!r:.80}, and not a text")
    return value


def _amount(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{where} is {value!r:.80}, and not an amount")
    return float(value)
