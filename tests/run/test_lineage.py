"""Ancestors are counted once, however they are reached; totals come from cards, too; folders of other people may hold anything."""

import json
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.carbon.footprint import Reading
from tfkit.errors import ModelError
from tfkit.run.ancestors import Parent, find_ancestors, read_lineage
from tfkit.run.card_facts import BaseCard
from tfkit.run.lineage import Ancestor, Lineage, OwnTotals, ParentEntry, merge_ancestors, parse_lineage, shifted, sum_inherited
from tfkit.run.manifest import write_manifest


def own(grams: float | None, status: str = "ok") -> OwnTotals:
    energy, seconds = (None, None) if grams is None else (grams / 100, 60.0)
    return OwnTotals(energy, grams, seconds, status, "CPU model", {"g_per_kwh": 100.0})


def checkpoint(folder: Path, run_id: str, grams: float | None, *parents: Parent, status: str = "ok", card: str = "") -> Parent:
    """Write a checkpoint with the lineage that a run with these parents gives it, and return it as a parent of others."""
    folder.mkdir()
    ancestors = find_ancestors(parents, run_id).ancestors
    lineage = Lineage("fine-tuning", tuple(ParentEntry(**one.document()) for one in parents), own(grams, status), ancestors)
    (folder / "tfkit.json").write_text(json.dumps({"schema_version": 1, "run_id": run_id, "lineage": lineage.document()}))
    if card:
        (folder / "README.md").write_text(card)
    write_manifest(folder)
    return Parent("start", f"runs/{folder.name}", folder, run_id, f"{run_id:a<64}")


def test_a_document_is_read_as_it_was_written() -> None:
    ancestors = (Ancestor("a", ("start", "teacher"), "r", "s", ("t",), 0.1, 12.5, "ledger", "degraded", (1,)), Ancestor("b", ("start",)))
    parents = (ParentEntry("start", "runs/a", "r", "s"),)
    unmeasured = Lineage("", (), own(None, "off"), ())
    for lineage in (Lineage("pre-training", parents, own(3.0), ancestors), Lineage("", (), None, None), unmeasured):
        assert parse_lineage(json.loads(json.dumps(lineage.document()))) == lineage
    assert OwnTotals.of(Reading(status="off"), None) == replace(own(None, "off"), provenance="", intensity=None)


def test_the_shoulders_of_a_diamond_share_their_base(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "base", 100.0)
    left, right = (checkpoint(tmp_path / name, name, grams, base) for name, grams in (("left", 10.0), ("right", 20.0)))
    found = find_ancestors([left, Parent("teacher", right.path, right.folder, right.run_id, right.sha256)], "new").ancestors
    named = {one.name: tuple(found[place].name for place in one.parents) for one in found}
    assert named == {"left": ("base",), "right": ("base",), "base": ()}
    assert [one.roles for one in found] == [("start",), ("teacher",), ("start",)]
    assert sum_inherited(found).fields() == {"inherited_g": 130.0, "inherited_kwh": 1.3, "inherited_is_lower_bound": False}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_sum_is_that_of_the_distinct_runs_of_any_graph(data: st.DataObject) -> None:
    """Each model has a lineage that is made from those of its parents. In the lineage of the last model, each ancestor counts once."""
    made: list[tuple[Ancestor, tuple[Ancestor, ...], set[int]]] = []
    for number in range(data.draw(st.integers(1, 8))):
        above = data.draw(st.lists(st.integers(0, number - 1), unique=True, max_size=3)) if number else []
        found: list[Ancestor] = []
        for place in above:
            found += shifted([_behind(made[place])[0], *_behind(made[place])[1:]], len(found))
        merged = merge_ancestors(found)
        behind = {run for place in above for run in {place, *made[place][2]}}
        made.append((Ancestor(f"n{number}", ("start",), f"run-{number}", None, (), None, 2.0**number, "ledger", "ok"), merged, behind))
        assert {one.run_id for one in merged} == {f"run-{run}" for run in behind}
        assert (sum_inherited(merged).emissions_g or 0.0) == sum(2.0**run for run in behind)


def _behind(made: tuple[Ancestor, tuple[Ancestor, ...], set[int]]) -> list[Ancestor]:
    return [made[0], *shifted(made[1], 1)]


def test_entries_of_one_run_are_one_and_a_copy_without_its_run_is_found_by_its_content() -> None:
    early = Ancestor("early", ("start",), "r", "s1", (), 0.01, 1.0, "ledger", "ok", (3,))
    late = Ancestor("late", ("reward",), "r", "s2", (), 0.03, 3.0, "ledger", "ok", (3,))
    copy = Ancestor("copy", ("value",), None, "s1")
    root = Ancestor("root", ("start",), None, "s0", (), None, 7.0, "card", "ok")
    one, above = merge_ancestors([early, late, copy, root])
    assert one == Ancestor("early", ("start", "reward", "value"), "r", "s2", ("s1",), 0.03, 3.0, "ledger", "ok", (1,))
    assert above == root
    assert merge_ancestors([early, late, copy, root], ["r"]) == (root,)
    assert [one.name for one in merge_ancestors([Ancestor("x", ("start",)), Ancestor("x", ("teacher",)), Ancestor("y", ())])] == ["x", "y"]


@pytest.mark.parametrize(
    ("grams", "status", "expected"),
    [(None, "off", (5.0, True)), (None, "failed", (5.0, True)), (2.0, "degraded", (7.0, True)), (2.0, "ok", (7.0, False))],
)
def test_an_ancestor_without_its_energy_makes_a_lower_bound(tmp_path: Path, grams: float | None, status: str, expected: object) -> None:
    base = checkpoint(tmp_path / "base", "base", grams, status=status)
    found = sum_inherited(find_ancestors([checkpoint(tmp_path / "tuned", "tuned", 5.0, base)], "new").ancestors)
    assert (found.emissions_g, found.is_lower_bound) == expected


def test_an_ancestor_that_is_gone_is_known_by_its_children_and_a_run_does_not_inherit_from_itself(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "base", 100.0)
    tuned = checkpoint(tmp_path / "tuned", "tuned", 5.0, base)
    assert [one.run_id for one in find_ancestors([tuned], "tuned").ancestors] == ["base"]
    (tmp_path / "base").rename(tmp_path / "gone")
    assert sum_inherited(find_ancestors([tuned], "new").ancestors).emissions_g == 105.0


def test_a_published_model_counts_with_what_its_card_states(tmp_path: Path) -> None:
    def found(card: str) -> tuple[Ancestor, ...]:
        (tmp_path / "README.md").write_text(f"---\n{card}\n---\n# A model\n")
        return find_ancestors([Parent("start", "hub:org/name@main", tmp_path, None, "s")], "new").ancestors

    (one,) = found("co2_eq_emissions:\n  emissions: 12.5\n  training_type: pre-training")
    assert one == Ancestor("org/name", ("start",), None, "s", (), None, 12.5, "card", "ok")
    assert sum_inherited([one]).fields() == {"inherited_g": 12.5, "inherited_kwh": None, "inherited_is_lower_bound": False}
    tuned = found("base_model: org/base\nco2_eq_emissions: {emissions: 12.5, source: me}")
    assert [(one.name, one.emissions_g, one.parents) for one in tuned] == [("org/name", 12.5, (1,)), ("org/base", None, ())]
    assert sum_inherited(tuned).is_lower_bound
    (unknown,) = found("license: mit")
    assert (unknown.source, unknown.status, sum_inherited([unknown]).fields()["inherited_g"]) == ("unknown", "unknown", None)


def test_grams_are_read_as_the_hub_reads_them(tmp_path: Path) -> None:
    for front, grams in {
        "co2_eq_emissions: 0.0123": 0.0123,
        "co2_eq_emissions: '149200 g'": 149200.0,
        "co2_eq_emissions:\n  emissions: 1.2e-05\n  source: x": 1.2e-05,
        "co2_eq_emissions:\n  source: CodeCarbon 3\n  emissions: 83.524 # kg?": 83.524,
        'co2_eq_emissions: {"source": "v2", "emissions": 7}': 7.0,
        "co2_eq_emissions:\n    training_type: fine-tuning 3": None,
        **dict.fromkeys(("co2_eq_emissions: none", "co2_eq_emissions: 0", "co2: 3")),
    }.items():
        (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{front}\ntags: [x]\n---\ntext\n")
        assert BaseCard.read(tmp_path).emissions_g == grams, front


def test_an_older_version_recorded_parents_alone(tmp_path: Path) -> None:
    parents = [{"role": "start", "path": "runs/base/checkpoints/step-000100", "run_id": "base", "sha256": "s"}]
    (tmp_path / "tfkit.json").write_text(json.dumps({"run_id": "old", "lineage": {"training": "fine-tuning", "parents": parents}}))
    (tmp_path / "README.md").write_text("---\nbase_model: base\nco2_eq_emissions: 2.5\n---\n")
    found = find_ancestors([Parent("start", "old", tmp_path, "old", "t")], "new").ancestors
    known = [("old", "old", 2.5, "card"), ("base", "base", None, "unknown")]
    assert [(one.name, one.run_id, one.emissions_g, one.source) for one in found] == known
    assert sum_inherited(found).is_lower_bound


def test_a_model_that_changed_since_its_child_was_made_from_it_is_reported(tmp_path: Path) -> None:
    base = replace(checkpoint(tmp_path / "base", "base", 100.0), path=str(tmp_path / "base"))
    tuned = checkpoint(tmp_path / "tuned", "tuned", 5.0, base)
    assert find_ancestors([tuned, base], "new").problems == ()
    (problem,) = find_ancestors([tuned, replace(base, sha256="b" * 64)], "new").problems
    said = f"has changed since runs/tuned was made from it: the SHA-256 of its weights was {base.sha256} and"
    assert problem.startswith(f"{base.path}: {said}")
    run = replace(base, sha256="b" * 64, folder=tmp_path / "base" / "checkpoints" / "step-000009")  # a run that continued
    assert find_ancestors([tuned, run], "new").problems == ()


GOOD: dict[str, Any] = {"name": "a", "roles": ["start"], "source": "ledger", "status": "ok", "emissions_g": 1.0, "parents": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parents": [3]}, "lineage.ancestors[0].parents are not positions"),
        ({"parents": [True]}, "lineage.ancestors[0].parents[0] is True: Input should be a valid integer"),
        ({"parents": [-1]}, "lineage.ancestors[0].parents[0] is -1: Input should be greater than or equal to 0"),
        ({"parents": "1"}, "lineage.ancestors[0].parents is '1': Input should be a valid tuple"),
        ({"emissions_g": -1}, "lineage.ancestors[0].emissions_g is -1: Input should be greater than or equal to 0"),
        ({"emissions_g": 1e300}, "emissions_g is 1e+300: Input should be less than or equal to 1"),
        ({"emissions_g": 10**400}, "lineage.ancestors[0].emissions_g is 1000"),
        ({"emissions_g": "1"}, "lineage.ancestors[0].emissions_g is '1': Input should be a valid number"),
        ({"emissions_g": True}, "lineage.ancestors[0].emissions_g is True: Input should be a valid number"),
        ({"name": "x" * 2000}, "lineage.ancestors[0].name is 'xxx"),
        ({"name": 1}, "lineage.ancestors[0].name is 1: Input should be a valid string"),
        ({"roles": "start"}, "lineage.ancestors[0].roles is 'start': Input should be a valid tuple"),
        ({"source": "heaven"}, "source is 'heaven': Input should be 'ledger', 'card' or 'unknown'"),
    ],
)
def test_a_lineage_that_is_none_is_reported_and_counts_as_unknown(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    lineage = {"parents": [], "own": asdict(own(5.0)), "ancestors": [GOOD | change]}
    (tmp_path / "tfkit.json").write_text(json.dumps({"run_id": "r", "lineage": lineage}))
    with pytest.raises(ModelError) as error:
        read_lineage(tmp_path)
    assert said in str(error.value)
    found = find_ancestors([Parent("start", "x", tmp_path, "r", "s")], "new")
    assert [(one.source, one.emissions_g) for one in found.ancestors] == [("unknown", None)]
    assert said in found.problems[0]


@pytest.mark.parametrize("field", ["parents", "roles", "others", None])
def test_a_list_of_a_hundred_thousand_errors_is_refused_in_little_memory(field: str | None) -> None:
    bad = {"ancestors": [GOOD | {field: [True] * 100_000}] if field else [GOOD | {"name": 1}] * 100_000}
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"lineage.ancestors"):
        parse_lineage(bad)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


KEYS = st.sampled_from([*GOOD, "seconds", "intensity", "path"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)
FIELDS = st.sampled_from(["training", "parents", "own", "ancestors"])


@given(st.dictionaries(FIELDS, ANY_JSON) | ANY_JSON, st.dictionaries(st.sampled_from([*GOOD, "sha256", "others"]), ANY_JSON, max_size=2))
def test_whatever_a_lineage_holds_it_is_refused_or_read_as_it_is_written(document: Any, change: dict[str, Any]) -> None:
    if isinstance(document, dict):
        document = {"ancestors": [GOOD | change, GOOD]} | document
    try:
        lineage = parse_lineage(document)
    except ValueError:
        return
    assert parse_lineage(json.loads(json.dumps(lineage.document()))) == lineage
    merge_ancestors(lineage.ancestors or ())


def test_an_edited_file_is_reported_and_counts_as_unknown(tmp_path: Path) -> None:
    parent = checkpoint(tmp_path / "base", "base", 100.0, card="---\nco2_eq_emissions: 100\n---\n")
    path = tmp_path / "base" / "tfkit.json"
    path.write_text(path.read_text().replace("100.0", "0.1"))
    found = find_ancestors([parent], "new")
    assert [(one.source, one.emissions_g) for one in found.ancestors] == [("unknown", None)]
    edited = f"{path}: was edited: its SHA-256 is not that of manifest.json; restore the file"
    assert found.problems == (f"the energy and emissions of this model are unknown: {edited}",)
