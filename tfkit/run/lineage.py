"""The lineage of a checkpoint, in its tfkit.json: the energy, emissions and time of its own run so far, its parents, and all ancestors.

    "lineage": {"training": "fine-tuning",
                "parents": [{"role": "start", "path": "runs/base", "run_id": ..., "sha256": ...}],
                "own": {"energy_kwh": ..., "emissions_g": ..., "seconds": ..., "status": "ok", "provenance": ..., "intensity": {...}},
                "ancestors": [{"name": "base", "roles": ["start"], "run_id": ..., "sha256": ..., "energy_kwh": ..., "emissions_g": ...,
                               "source": "ledger", "status": "ok", "parents": [1]}, ...]}

The list `ancestors` begins with the parents and includes the ancestors of ancestors. Each is listed once, even if several of the parents
descend from it. Only the entries of `parents` have paths.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tfkit.carbon.footprint import Footprint, Intensity, Reading
from tfkit.run.fitting_fields import fitting

Source = Literal["ledger", "card", "unknown"]
Text = Annotated[str, Field(max_length=1000)]
Amount = Annotated[float, Field(strict=True, ge=0, le=1e18)]  # grams, kWh or seconds; no real amount exceeds this limit
_ENTRIES = Field(max_length=10_000, fail_fast=True)  # without fail_fast, pydantic would collect the errors of all entries of a huge list
Texts = Annotated[tuple[Text, ...], _ENTRIES]


@dataclass(frozen=True)
class OwnTotals:
    """The energy, emissions and time of a run up to a checkpoint, over all its attempts; None: not measured."""

    energy_kwh: Amount | None
    emissions_g: Amount | None
    seconds: Amount | None
    status: Text  # ok; degraded: a lower bound; failed, off: not measured
    provenance: Text = ""
    intensity: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, reading: Reading, intensity: Intensity | None) -> "OwnTotals":
        """Take the totals from the meter's reading; `intensity`: the carbon intensity from which the emissions follow."""
        used = Footprint.from_reading(reading)
        if used.energy_kwh is None:
            return cls(None, None, None, reading.outcome)
        grid = intensity.document() if intensity else None
        return cls(used.energy_kwh, used.emissions_g, reading.seconds, reading.outcome, reading.provenance, grid)


@dataclass(frozen=True)
class Ancestor:
    """A run or a published model from which a model was made. `parents`: the positions of its own parents in the list of ancestors."""

    name: Text
    roles: Texts
    run_id: Text | None = None
    sha256: Text | None = None  # of the weights and the configuration
    others: Texts = ()  # the SHA-256 hashes of other checkpoints of the same run
    energy_kwh: Amount | None = None
    emissions_g: Amount | None = None
    source: Source = "unknown"
    status: Text = "unknown"  # of energy and emissions. ok; degraded: a lower bound; any other value: not known
    parents: Annotated[tuple[Annotated[int, Field(strict=True, ge=0)], ...], _ENTRIES] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the emissions are known, and not only as a lower bound."""
        return self.emissions_g is not None and self.status == "ok"

    def document(self) -> dict[str, Any]:
        """Return the ancestor's entry in tfkit.json."""
        names = ("name", "run_id", "sha256", "energy_kwh", "emissions_g", "source", "status")
        lists = {"roles": list(self.roles), "parents": list(self.parents)} | ({"others": list(self.others)} if self.others else {})
        return {name: getattr(self, name) for name in names} | lists


@dataclass(frozen=True)
class Inherited:
    """The sums of the known values of distinct ancestors; None if none is known. A model card may state emissions without energy."""

    energy_kwh: float | None
    emissions_g: float | None
    is_lower_bound: bool  # whether the emissions of any ancestor are unknown or a lower bound

    def fields(self) -> dict[str, Any]:
        """Return the sums under their names in the result of a command (docs/cli.md)."""
        return {"inherited_g": self.emissions_g, "inherited_kwh": self.energy_kwh, "inherited_is_lower_bound": self.is_lower_bound}


@dataclass(frozen=True)
class ParentEntry:
    """A model from which another was made, such as the base model or a teacher, as run.json and tfkit.json record it."""

    role: Text | None = None
    path: Text | None = None
    run_id: Text | None = None
    sha256: Text | None = None


@dataclass(frozen=True)
class Lineage:
    """The lineage of one checkpoint. `own` and `ancestors` are None in files of older versions, which recorded only the parents."""

    training: Text = ""  # pre-training or fine-tuning
    parents: Annotated[tuple[ParentEntry, ...], _ENTRIES] = ()
    own: OwnTotals | None = None
    ancestors: Annotated[tuple[Ancestor, ...], _ENTRIES] | None = None

    def document(self) -> dict[str, Any]:
        """Return the object `lineage` of tfkit.json."""
        own = {"own": asdict(self.own)} if self.own is not None else {}
        ancestors = {"ancestors": [ancestor.document() for ancestor in self.ancestors]} if self.ancestors is not None else {}
        return {"training": self.training, "parents": [asdict(parent) for parent in self.parents], **own, **ancestors}


_LINEAGE = TypeAdapter(Lineage)


def parent_entries(parents: Any) -> tuple[ParentEntry, ...] | None:
    """Return the entries of the list `parents` of run.json or tfkit.json that are objects; None if `parents` is not a list."""
    return tuple(fitting(ParentEntry, one) for one in parents if isinstance(one, dict)) if isinstance(parents, list) else None


def sum_inherited(ancestors: Sequence[Ancestor]) -> Inherited:
    """Return the sums over `ancestors`, in which each ancestor must occur only once."""
    grams = [ancestor.emissions_g for ancestor in ancestors if ancestor.emissions_g is not None]
    energy = [ancestor.energy_kwh for ancestor in ancestors if ancestor.energy_kwh is not None]
    is_lower_bound = not all(ancestor.is_whole for ancestor in ancestors)
    return Inherited(sum(energy) if energy else None, sum(grams) if grams else None, is_lower_bound)


def merge_ancestors(entries: Sequence[Ancestor], without: Collection[str] = ()) -> tuple[Ancestor, ...]:
    """Return each ancestor once, in the order of `entries`, without the runs whose ids are in `without`.

    Entries of the same run are merged into one ancestor, with the largest emissions among them. An entry without a run id, such as a copy
    that lost its tfkit.json, is identified by its SHA-256 or, if it has none, by its name. The `parents` of an entry are positions in
    `entries`; the `parents` of a returned ancestor are positions in the result.
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
    """Return the ancestors with `by` added to the positions of their parents, as needed to append them to a list of length `by`."""
    return [replace(ancestor, parents=tuple(parent + by for parent in ancestor.parents)) for ancestor in ancestors]


def position(ancestors: Sequence[Ancestor], run_id: Any, sha256: Any) -> int | None:
    """Return the position of the ancestor with this run id or SHA-256; None if it is not in the list."""
    same = ((run_id is not None and one.run_id == run_id) or (sha256 is not None and sha256 in _hashes(one)) for one in ancestors)
    return next((index for index, is_same in enumerate(same) if is_same), None)


def parse_lineage(document: Any) -> Lineage:
    """Check and return the field `lineage` of a tfkit.json, which may be of an older version. Raises ValueError if it is invalid."""
    try:
        lineage = _LINEAGE.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        raise ValueError(f"lineage{place} is {first['input']!r:.80}: {first['msg']}") from None
    ancestors = lineage.ancestors or ()
    for index, ancestor in enumerate(ancestors):
        if any(parent >= len(ancestors) for parent in ancestor.parents):
            raise ValueError(f"lineage.ancestors[{index}].parents are not positions in the list of ancestors")
    return lineage


def _hashes(ancestor: Ancestor) -> list[str]:
    """Return the known SHA-256 hashes of the ancestor's checkpoints."""
    return [sha256 for sha256 in (ancestor.sha256, *ancestor.others) if sha256 is not None]


def _identity(ancestor: Ancestor, runs: Mapping[str, str]) -> tuple[str, str]:
    """Return a key that is equal for entries of the same ancestor; `runs`: run ids by SHA-256."""
    if ancestor.run_id is not None:
        return "run", ancestor.run_id
    if ancestor.sha256 is None:
        return "name", ancestor.name
    return ("run", runs[ancestor.sha256]) if ancestor.sha256 in runs else ("content", ancestor.sha256)


def _merge(group: Sequence[Ancestor]) -> Ancestor:
    """Merge the entries of one ancestor: the totals of the entry with the largest emissions, and the roles and hashes of all entries."""
    largest = max(group, key=lambda entry: (-1.0 if entry.emissions_g is None else entry.emissions_g, entry.source == "ledger"))
    run_id = next((entry.run_id for entry in group if entry.run_id is not None), None)
    sha256, *others = dict.fromkeys(sha256 for entry in (largest, *group) for sha256 in _hashes(entry)) or (None,)
    roles = tuple(dict.fromkeys(role for entry in group for role in entry.roles))
    return replace(largest, name=group[0].name, roles=roles, run_id=run_id, sha256=sha256, others=tuple(map(str, others)))
