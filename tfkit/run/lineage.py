"""The lineage of a model, as tfkit.json has it: its own energy at that checkpoint, its parents, and all of their ancestors.

    "lineage": {"training": "fine-tuning",
                "parents": [{"role": "start", "path": "runs/base", "run_id": ..., "sha256": ...}],
                "own": {"energy_kwh": ..., "emissions_g": ..., "seconds": ..., "status": "ok", "provenance": ..., "intensity": {...}},
                "ancestors": [{"name": "base", "roles": ["start"], "run_id": ..., "sha256": ..., "energy_kwh": ..., "emissions_g": ...,
                               "source": "ledger", "status": "ok", "parents": [1]}, ...]}

Each ancestor is there once, whatever the number of paths that lead to it, so a copied folder knows what its model has cost without them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tfkit.carbon.reading import Reading

Source = Literal["ledger", "card", "unknown"]
_MOST_ANCESTORS = 10_000
_LONGEST = 1000  # characters of a name, a path or an identity
_LARGEST = 1e18  # grams, kWh or seconds: more than mankind's, and still a float


@dataclass(frozen=True)
class Own:
    """The totals of a run at the moment of a checkpoint, over all attempts; None: not measured."""

    energy_kwh: float | None
    emissions_g: float | None
    seconds: float | None
    status: str  # ok; degraded: a lower bound; failed, off: not measured
    provenance: str = ""
    intensity: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, reading: Reading, intensity: Mapping[str, Any]) -> "Own":
        """Take the meter's reading, and the carbon intensity that it was computed with."""
        if reading.outcome not in ("ok", "degraded"):
            return cls(None, None, None, reading.outcome)
        return cls(reading.energy_wh / 1000, reading.emissions_g, reading.seconds, reading.outcome, reading.provenance, intensity)

    def document(self) -> dict[str, Any]:
        """Return it as tfkit.json has it."""
        names = ("energy_kwh", "emissions_g", "seconds", "status", "provenance")
        return {name: getattr(self, name) for name in names} | {"intensity": dict(self.intensity) if self.intensity else None}


@dataclass(frozen=True)
class Ancestor:
    """A run or a published model that a model comes from. `parents` are positions in the same list."""

    name: str
    roles: tuple[str, ...]
    run_id: str | None = None
    sha256: str | None = None  # of the weights and the configuration
    others: tuple[str, ...] = ()  # the same of further checkpoints of its run
    energy_kwh: float | None = None
    emissions_g: float | None = None
    source: Source = "unknown"
    status: str = "unknown"  # ok; degraded: a lower bound; any other: not measured
    parents: tuple[int, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether its emissions are known, and are no lower bound."""
        return self.emissions_g is not None and self.status == "ok"

    def document(self) -> dict[str, Any]:
        """Return it as tfkit.json has it."""
        names = ("name", "run_id", "sha256", "energy_kwh", "emissions_g", "source", "status")
        lists = {"roles": list(self.roles), "parents": list(self.parents)} | ({"others": list(self.others)} if self.others else {})
        return {name: getattr(self, name) for name in names} | lists


@dataclass(frozen=True)
class Inherited:
    """The sums over distinct ancestors: None where none is known. `energy_kwh` lacks those whose card states grams alone."""

    energy_kwh: float | None
    emissions_g: float | None
    is_lower_bound: bool  # of the emissions: those of an ancestor are unknown, or a lower bound

    def fields(self) -> dict[str, Any]:
        """Return the fields of docs/cli.md."""
        return {
            "inherited_g": self.emissions_g,
            "inherited_kwh": self.energy_kwh,
            "inherited_is_lower_bound": self.is_lower_bound,
        }


@dataclass(frozen=True)
class Lineage:
    """The lineage of one checkpoint. `own` and `ancestors` are None in the form of older versions, which had the parents alone."""

    training: str  # pre-training or fine-tuning
    parents: tuple[Mapping[str, Any], ...]  # role, path, run_id and sha256 of each model that the run began with
    own: Own | None
    ancestors: tuple[Ancestor, ...] | None

    def document(self) -> dict[str, Any]:
        """Return it as tfkit.json has it."""
        own = {"own": self.own.document()} if self.own is not None else {}
        ancestors = {"ancestors": [one.document() for one in self.ancestors]} if self.ancestors is not None else {}
        return {"training": self.training, "parents": [dict(one) for one in self.parents], **own, **ancestors}


def sum_inherited(ancestors: Sequence[Ancestor]) -> Inherited:
    """Return the sums over ancestors that are distinct already."""
    grams = [one.emissions_g for one in ancestors if one.emissions_g is not None]
    energy = [one.energy_kwh for one in ancestors if one.energy_kwh is not None]
    is_lower_bound = not all(one.is_whole for one in ancestors)
    return Inherited(sum(energy) if energy else None, sum(grams) if grams else None, is_lower_bound)


def merge_ancestors(found: Sequence[Ancestor], without: Collection[str] = ()) -> tuple[Ancestor, ...]:
    """Return each ancestor once, in the order in which they were found, without the runs of the ids `without`.

    Entries of one run are one ancestor, with its largest total. An entry without a run id, such as a copy that lost its tfkit.json, is
    the one with the same content; without either, the one of the same name. `parents` of the entries are positions in `found`.
    """
    runs = {sha256: one.run_id for one in found if one.run_id is not None for sha256 in (one.sha256, *one.others) if sha256 is not None}
    groups: dict[tuple[str, str], list[Ancestor]] = {}
    keys = [_identity(one, runs) for one in found]
    for key, one in zip(keys, found, strict=True):
        if key[0] != "run" or key[1] not in without:
            groups.setdefault(key, []).append(one)
    places = {key: place for place, key in enumerate(groups)}
    merged = []
    for key, group in groups.items():
        above = dict.fromkeys(places[keys[parent]] for one in group for parent in one.parents if keys[parent] in places)
        above.pop(places[key], None)
        merged.append(replace(_merged(group), parents=tuple(above)))
    return tuple(merged)


def shifted(ancestors: Sequence[Ancestor], by: int) -> list[Ancestor]:
    """Return ancestors for the end of a list that has `by` others already."""
    return [replace(one, parents=tuple(parent + by for parent in one.parents)) for one in ancestors]


def position(ancestors: Sequence[Ancestor], run_id: Any, sha256: Any) -> int | None:
    """Return the place of a recorded parent in the list; None if it is not there."""
    for place, one in enumerate(ancestors):
        if (run_id is not None and one.run_id == run_id) or (sha256 is not None and sha256 in (one.sha256, *one.others)):
            return place
    return None


def parse_lineage(document: Any) -> Lineage:
    """Read the field `lineage` of a tfkit.json, of this version or an older one. Raises ValueError with what is wrong with it."""
    if not isinstance(document, dict):
        raise ValueError("lineage is not an object")
    parents = document.get("parents", [])
    if not isinstance(parents, list) or not all(isinstance(one, dict) for one in parents) or len(parents) > _MOST_ANCESTORS:
        raise ValueError("lineage.parents is not a list of objects")
    named = [{name: _text(one.get(name), f"lineage.parents: {name}") for name in ("role", "path", "run_id", "sha256")} for one in parents]
    own, ancestors = document.get("own"), document.get("ancestors")
    training = document.get("training")
    return Lineage(
        training if isinstance(training, str) else "",
        tuple(named),
        None if own is None else _own(own),
        None if ancestors is None else _ancestors(ancestors),
    )


def _identity(one: Ancestor, runs: Mapping[str, str]) -> tuple[str, str]:
    if one.run_id is not None:
        return "run", one.run_id
    if one.sha256 is None:
        return "name", one.name
    return ("run", runs[one.sha256]) if one.sha256 in runs else ("content", one.sha256)


def _merged(group: Sequence[Ancestor]) -> Ancestor:
    """Return one ancestor for the entries of one run or one content: with the largest total, and the roles of all."""
    largest = max(group, key=lambda one: (-1.0 if one.emissions_g is None else one.emissions_g, one.source == "ledger"))
    run_id = next((one.run_id for one in group if one.run_id is not None), None)
    contents = dict.fromkeys(sha256 for one in (largest, *group) for sha256 in (one.sha256, *one.others) if sha256 is not None)
    sha256, *others = contents or (None,)
    roles = tuple(dict.fromkeys(role for one in group for role in one.roles))
    return replace(largest, name=group[0].name, roles=roles, run_id=run_id, sha256=sha256, others=tuple(map(str, others)))


def _own(document: Any) -> Own:
    if not isinstance(document, dict):
        raise ValueError("lineage.own is not an object")
    energy, grams, seconds = (_amount(document.get(name), f"lineage.own.{name}") for name in ("energy_kwh", "emissions_g", "seconds"))
    status, provenance = (_text(document.get(name), f"lineage.own.{name}") for name in ("status", "provenance"))
    intensity = document.get("intensity")
    return Own(energy, grams, seconds, status or "unknown", provenance or "", intensity if isinstance(intensity, dict) else None)


def _ancestors(document: Any) -> tuple[Ancestor, ...]:
    if not isinstance(document, list) or len(document) > _MOST_ANCESTORS:
        raise ValueError(f"lineage.ancestors is not a list of at most {_MOST_ANCESTORS:,} objects")
    return tuple(_ancestor(one, f"lineage.ancestors[{place}]", len(document)) for place, one in enumerate(document))


def _ancestor(document: Any, where: str, count: int) -> Ancestor:
    if not isinstance(document, dict):
        raise ValueError(f"{where} is not an object")
    name, run_id, sha256, status = (_text(document.get(field), f"{where}.{field}") for field in ("name", "run_id", "sha256", "status"))
    source = document.get("source")
    parents = document.get("parents", [])
    if source not in ("ledger", "card", "unknown"):
        raise ValueError(f"{where}.source is {source!r:.80}, and not ledger, card or unknown")
    if not isinstance(parents, list) or not all(type(one) is int and 0 <= one < count for one in parents):
        raise ValueError(f"{where}.parents are not positions in the list of ancestors")
    energy, grams = (_amount(document.get(field), f"{where}.{field}") for field in ("energy_kwh", "emissions_g"))
    roles, others = (_texts(document.get(field, []), f"{where}.{field}") for field in ("roles", "others"))
    return Ancestor(name or "", roles, run_id, sha256, others, energy, grams, source, status or "unknown", tuple(parents))


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and len(one) <= _LONGEST for one in value):
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
