"""The forms that others define: valid by their published schemas, with the numbers of the run, and without names of the machine."""

import json
import lzma
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny_files import read_json
from tiny_runs import RECIPE, run_here, write_corpus
from written_runs import write_run

from tfkit.carbon import Meter
from tfkit.errors import UsageError
from tfkit.reporting.finished_card import finished_card
from tfkit.reporting.formats.boamps import boamps
from tfkit.reporting.formats.cyclonedx import cyclonedx
from tfkit.reporting.formats.eu_gpai import eu_gpai
from tfkit.reporting.formats.model_facts import decimal, describe_model
from tfkit.reporting.formats.sci import sci
from tfkit.reporting.formats.spdx import spdx
from tfkit.reporting.run_facts import RunFacts, read_facts
from tfkit.reporting.run_set import open_runs
from tfkit.run.manifest import read_manifest

SCHEMAS = Path(__file__).parent / "schemas"
FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0.1.0" / "stopped"
FORMS: dict[str, Callable[..., Any]] = {"cyclonedx": cyclonedx, "spdx": spdx, "boamps": boamps, "sci": sci, "eu-gpai": eu_gpai}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    """A fine-tuning of a run of ours, both metered at 36 W and 100 g/kWh."""
    folder = tmp_path_factory.mktemp("formats")
    recipe = RECIPE.replace("CORPUS", str(write_corpus(folder / "secret-corpus", files=2)))
    (folder / "base.yaml").write_text(recipe, encoding="utf-8")
    kept = [line for line in recipe.splitlines() if not line.startswith(("model:", "tokenizer:"))]
    (folder / "tuned.yaml").write_text("\n".join(kept), encoding="utf-8")
    metered = "carbon={enabled: true, country: FRA, intensity_g_per_kwh: 100, every_seconds: 1}"
    words = [metered, "training.steps=2", "evaluation.every=2", "--threads", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(Path(__file__).parent.parent / "carbon"))
        start = Meter.start
        patch.setattr(Meter, "start", lambda section, **options: start(section, **options, probe="scripted_probe:Steady"))
        run_here(["pretrain", "base.yaml", "--run", "runs/base", *words]).exits(0)
        run_here(["finetune", "tuned.yaml", "--from", "runs/base", "--run", "runs/tuned", *words]).exits(0)
    return read_facts(folder / "runs" / "tuned")


def schema(name: str) -> Any:
    return json.loads(lzma.decompress((SCHEMAS / f"{name}.json.xz").read_bytes()))


def errors(form: str, document: dict[str, Any]) -> list[str]:
    """Return what the published schema of a form finds wrong.

    SPDX's tries each of its 70 classes on each element, for seconds; an element can only be of the class that its `type` names.
    """
    checks = [(validator(form), document)]
    if form == "spdx":
        whole = validator(form).schema
        assert document["@context"] == whole["properties"]["@context"]["const"]
        classes = {one["$ref"] for one in whole["$defs"]["AnyClass"]["anyOf"]}
        of_class = {name: f"#/$defs/{name}" for name in {one["type"] for one in document["@graph"]}}
        assert {*of_class.values()} <= classes
        only = {name: {"$ref": ref, "unevaluatedProperties": False, "$defs": whole["$defs"]} for name, ref in of_class.items()}
        checks = [(type(validator(form))(only[one["type"]]), one) for one in document["@graph"]]
    return [f"{error.json_path}: {error.message}"[:300] for check, part in checks for error in check.iter_errors(part)]


@cache
def validator(form: str) -> Any:
    """Return the validator of a form, with all files that its schema refers to; nothing is fetched."""
    jsonschema = pytest.importorskip("jsonschema")  # an extra of development
    referencing = pytest.importorskip("referencing")
    main_one, *others = {
        "cyclonedx": ["cyclonedx-bom-1.6", "cyclonedx-jsf-0.82", "cyclonedx-spdx"],
        "spdx": ["spdx-3.0.1"],
        "boamps": ["boamps-report", "boamps-algorithm", "boamps-dataset", "boamps-hardware", "boamps-measure"],
    }[form]
    whole = schema(main_one)
    cls = jsonschema.validators.validator_for(whole)
    made = [referencing.Resource.from_contents(schema(name)) for name in others]
    registry = referencing.Registry().with_resources([(resource.id(), resource) for resource in made])
    return cls(whole, registry=registry)


@pytest.mark.parametrize(
    ("form", "spoil"),
    [
        ("cyclonedx", lambda one: _energies(one)[0].update(activity="dreaming")),
        ("spdx", lambda one: _package(one).update(ai_energy="much")),
        ("boamps", lambda one: one["measures"][0].pop("powerConsumption")),
    ],
)
def test_a_document_is_valid_by_its_published_schema_until_it_is_spoiled(tuned: RunFacts, form: str, spoil: Callable[[Any], Any]) -> None:
    document = FORMS[form](tuned, full=True)  # which has all fields
    assert errors(form, document) == []
    copy = json.loads(json.dumps(document, allow_nan=False))
    assert copy == document
    spoil(copy)
    assert errors(form, copy)


def _energies(bill: dict[str, Any]) -> Any:
    return bill["components"][0]["modelCard"]["considerations"]["environmentalConsiderations"]["energyConsumptions"]


def _package(document: dict[str, Any]) -> Any:
    return next(one for one in document["@graph"] if one["type"] == "ai_AIPackage")


def test_every_form_has_the_energy_of_the_run(tuned: RunFacts) -> None:
    energy, grams = tuned.amounts.energy_kwh, tuned.amounts.emissions_g
    assert energy
    assert grams == pytest.approx(energy * 100)
    bill = cyclonedx(tuned, full=False)
    entries = _energies(bill)
    assert {one["activity"] for one in entries} == {"data-preparation", "fine-tuning", "validation"}
    assert sum(one["activityEnergyCost"]["value"] for one in entries) == pytest.approx(energy, rel=1e-3)
    assert sum(one["co2CostEquivalent"]["value"] for one in entries) == pytest.approx(grams * 1e-6, rel=1e-3)
    assert {one["energyProviders"][0]["energySource"] for one in entries} == {"unknown"}
    assert bill["serialNumber"] == f"urn:uuid:{tuned.run_id}"
    quantities = _package(spdx(tuned, full=False))["ai_energyConsumption"]["ai_finetuningEnergyConsumption"]
    assert sum(float(one["ai_energyQuantity"]) for one in quantities) == pytest.approx(energy, rel=1e-3)
    assert not any("e" in one["ai_energyQuantity"] for one in quantities)
    assert boamps(tuned, full=False)["measures"][0]["powerConsumption"] == energy
    rate = sci(tuned, full=False)
    assert rate["energy_kwh"] == energy
    assert rate["sci_g_per_unit"] * rate["functional_units"] == pytest.approx(grams)
    assert rate["low"] < rate["sci_g_per_unit"] < rate["high"]
    assert f"Amount of energy used for training: {_power(energy / 1000)} MWh, between " in eu_gpai(tuned, full=False)


@pytest.mark.parametrize(
    ("objective", "approach", "training"),
    [("causal_lm", "self-supervised", "selfSupervisedLearning"), ("classification", "supervised", "supervisedLearning")],
)
def test_the_kind_of_learning_follows_the_objective(tuned: RunFacts, objective: str, approach: str, training: str) -> None:
    run = replace(tuned, listed=replace(tuned.listed, kind="pretrain"), recipe={**tuned.recipe, "objective.kind": objective})
    assert cyclonedx(run, full=False)["components"][0]["modelCard"]["modelParameters"]["approach"] == {"type": approach}
    assert boamps(run, full=False)["task"]["algorithms"][0]["trainingType"] == training


def test_the_rate_has_the_fields_of_the_standard(tuned: RunFacts) -> None:
    rate = sci(tuned, full=False)
    wanted = {"embodied_g": None, "embodied_source": "not included", "intensity_g_per_kwh": 100.0, "intensity_kind": "user", "pue": 1.0}
    wanted |= {"functional_unit": "million trained tokens", "functional_units": 128 / 1e6}
    assert {name: rate[name] for name in wanted} == wanted
    assert {"energy_kwh", "intensity_source", "intensity_year", "sci_g_per_unit", "low", "high", "boundary"} <= {*rate}


def test_embodied_emissions_are_the_user_s_figure_with_its_source(tuned: RunFacts) -> None:
    stated = {"carbon.embodied_g_per_device_hour": 20.0, "carbon.embodied_source": "the maker"}
    with_it = replace(tuned, recipe={**tuned.recipe, **stated})
    rate, bare = sci(with_it, full=False), sci(tuned, full=False)
    seconds = tuned.amounts.seconds
    assert rate["embodied_device_hours"] == seconds / 3600
    assert (rate["embodied_g"], rate["embodied_source"]) == (pytest.approx(20 * seconds / 3600), "the maker")
    for name in ("sci_g_per_unit", "low", "high"):
        assert (rate[name] - bare[name]) * rate["functional_units"] == pytest.approx(rate["embodied_g"]), name
    assert "embodied emissions: not included" in bare["gaps"]
    assert not any("embodied" in gap for gap in rate["gaps"])
    devices = {"Abacus 9": 7200.0, "H100": 3600.0}
    recorded = replace(tuned.recorded, device="cuda", totals=replace(tuned.recorded.totals, device_seconds=devices))
    assert sci(replace(with_it, recorded=recorded), full=False)["embodied_g"] == pytest.approx(20.0)
    (first,) = tuned.attempts  # two machines that train together for an hour are two device hours
    second = replace(first, name="1-1", header={**first.header, "node": 1})
    rate = sci(replace(tuned, attempts=(first, second)), full=False)
    assert rate["embodied_device_hours"] == pytest.approx((seconds + first.sums["seconds"]) / 3600)


def test_the_european_form_answers_each_field_or_names_it_as_a_gap(tuned: RunFacts) -> None:
    text = eu_gpai(tuned, full=False)
    for field in (
        *("Model name", "Model version", "Secure hash of the weights", "Model it modifies or is made from", "Model architecture"),
        *("Total number of parameters", "Range of parameters", "Training time, wall-clock days (AI Office)"),
        *("Training time, hardware days (AI Office)", "Training time, range (national authorities)"),
        *("Amount of computation used for training (AI Office)", "Amount of computation used for training (national authorities)"),
        *("Measurement methodology of the computation", "Amount of energy used for training", "Measurement methodology of the energy"),
        *("Benchmarked amount of computation used for inference", "Measurement methodology of the benchmark"),
    ):
        assert f"\n  {field}: " in text, field
    assert "NOT KNOWN" not in text
    model = describe_model(tuned, full=False)
    assert f"({model.parameters:,})\n" in text
    assert (tuned.recorded.totals.train_flops or 0) > 6 * model.parameters * 128 * 0.5
    assert f"  Amount of computation used for training (AI Office): {_power(tuned.recorded.totals.train_flops or 0)} FLOP\n" in text
    assert "\n  Computation according to the hardware, for comparison: at most " in text
    older = replace(tuned, recorded=replace(tuned.recorded, totals=replace(tuned.recorded.totals, train_flops=None)))
    by_rule = eu_gpai(older, full=False)
    assert f"  Amount of computation used for training (AI Office): {_power(6 * model.parameters * 128)} FLOP\n" in by_rule
    assert "(C ~ 6 P D)" in by_rule
    assert "base (start, content SHA-256 " in text
    assert read_manifest(tuned.checkpoint.path)["model.safetensors"]["sha256"] in text
    gaps = text.split("\nGaps\n")[1]
    for gap in ("legal name of the provider", "rationale of the design", "embodied emissions: not included"):
        assert gap in gaps


def test_an_adapter_s_own_numbers_are_not_those_of_its_model(tuned: RunFacts) -> None:
    """Its checkpoint has the updates alone; a form that gave their number would state a model of a thousandth of its size."""
    of_adapter = replace(tuned.checkpoint, files={"adapter_config.json": {"size": 1, "sha256": "0"}, **tuned.checkpoint.files})
    run = replace(tuned, checkpoint=of_adapter, recorded=replace(tuned.recorded, totals=replace(tuned.recorded.totals, train_flops=None)))
    text = eu_gpai(run, full=False)
    assert "Total number of parameters: NOT KNOWN" in text
    assert f"parameters: the checkpoint is an adapter of {of_adapter.parameters:,} parameters, without those of its base model" in text
    assert "Amount of computation used for training (AI Office): NOT KNOWN" in text
    for form in ("cyclonedx", "spdx", "boamps"):
        assert errors(form, FORMS[form](run, full=False)) == []


def _power(number: float) -> str:
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa}*10^{int(exponent)}"


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_the_machine_is_in_a_form_unless_all_is_asked_for(tuned: RunFacts, form: str) -> None:
    host = tuned.recorded.last.host
    attempts = tuple(replace(one, host="host-of-ada") for one in tuned.recorded.attempts)
    known = replace(tuned, recorded=replace(tuned.recorded, attempts=attempts, command=["tfkit", "finetune", "--secret-word"]))
    shared, whole = (json.dumps(FORMS[form](known, full=full)) for full in (False, True))
    for secret in ("host-of-ada", "secret-word", str(tuned.path.parent), f'"{host}"'):
        assert secret not in shared, secret
    assert {word for word in ("host-of-ada", "secret-word") if word not in whole} == set()
    assert FORMS[form](known, full=False) == FORMS[form](tuned, full=False), "a form is a function of the facts alone"


def test_the_command_writes_one_form_of_one_run(tuned: RunFacts) -> None:
    assert run_here(["report", tuned.path, "--format", "spdx"]).exits(0).document == spdx(tuned, full=False)
    assert run_here(["report", tuned.path, "--format", "eu-gpai"]).exits(0).out.startswith("Model Documentation Form")
    run_here(["report", tuned.path.parent, "--format", "cyclonedx"]).exits(2, "name one of them")


def test_a_run_that_knows_little_names_its_gaps(tmp_path: Path) -> None:
    run = read_facts(write_run(tmp_path / "old", status="stopped", parents=[{"role": "start", "path": "hub:org/base", "sha256": "s"}]))
    for form in ("cyclonedx", "spdx", "boamps"):
        assert errors(form, FORMS[form](run, full=True)) == []
    text = eu_gpai(run, full=False)
    assert "\n  Amount of computation used for training (AI Office): NOT KNOWN\n" in text
    gaps = text.split("\nGaps\n")[1]
    missing = "parameters: there is no complete checkpoint"
    for gap in ("the run is stopped", missing, "inherited emissions: a lower bound", "range of the energy"):
        assert gap in gaps, gap
    assert sci(run, full=False)["sci_g_per_unit"] is None
    unmeasured = read_facts(write_run(tmp_path / "off", ledger=False, totals=False))
    assert errors("cyclonedx", cyclonedx(unmeasured, full=False)) == []
    assert "ai_energyConsumption" not in _package(spdx(unmeasured, full=False))
    assert "energy and emissions: not measured" in eu_gpai(unmeasured, full=False)
    with pytest.raises(UsageError, match="was not measured, and a BoAmps report requires it"):
        boamps(unmeasured, full=False)
    for kind in ("evaluate", "stages"):
        with pytest.raises(UsageError, match=f"this run is of kind {kind}; name the folder of one training"):
            sci(read_facts(write_run(tmp_path / kind, kind=kind)), full=False)


def test_a_folder_that_holds_anything_gives_a_document_or_an_error_that_says_so(tuned: RunFacts, tmp_path: Path) -> None:
    draw, odd = random.Random(5), (None, 5, -1, 1e308, True, "x", "\x1b[31m", [], {}, [1], {"a": 1}, "9" * 300)
    folder = tmp_path / "tuned"
    shutil.copytree(tuned.path, folder)
    files = [folder / "run.json", *(tuned.checkpoint.path / name for name in ("tfkit.json", "config.json"))]
    files = [folder / path.relative_to(tuned.path) if path.is_relative_to(tuned.path) else path for path in files]
    written = {path: path.read_text(encoding="utf-8") for path in files}
    for _ in range(20):
        path = draw.choice(files)
        document = json.loads(written[path])
        holder, key = draw.choice([*_places(document)])
        holder[key] = draw.choice(odd)
        path.write_text(json.dumps(document), encoding="utf-8")
        run = read_facts(folder)
        for form in FORMS.values():
            with suppress(UsageError):
                json.dumps(form(run, full=True), allow_nan=False)
        path.write_text(written[path], encoding="utf-8")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Return every place of a document, as its holder and its key."""
    items = [*value.items()] if isinstance(value, dict) else [*enumerate(value)] if isinstance(value, list) else []
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def test_a_decimal_has_no_exponent() -> None:
    for value, text in {8.109858855862394e-05: "0.0000811", 123456.0: "123000", 0.0: "0", 1.0: "1.00", 9.9999: "10.0"}.items():
        assert decimal(value, 3) == text


# ------------------------------------------------------- --format card: that of a checkpoint, with the cost of the whole run


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run of 0.1.0 that was stopped, of which run.json has 12,345 g by now."""
    path = shutil.copytree(FIXTURE, tmp_path / "stopped")
    document = read_json(path / "run.json")
    document["totals"] |= {"emissions_g": 12345.678, "energy_kwh": 25.5, "train_flops": 2.5e15, "rework_g": 2.0}
    (path / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_card_has_the_cost_of_the_whole_run_and_is_else_as_it_was(stopped: Path) -> None:
    facts = read_facts(stopped)
    readme = facts.checkpoint.path / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "\nWords of mine: $1 \\1.\n\n## My section\n\nMore.\n", encoding="utf-8")
    card = run_here(["report", stopped, "--format", "card"]).exits(0).out
    lines = card.splitlines()
    assert lines.count("co2_eq_emissions:") == 1
    assert "  emissions: 12345.678" in lines
    assert "| carbon emitted | 12.3 kg CO2e |" in lines
    assert "| computation | 2.5e+15 FLOP by the architecture |" in lines
    (sentence,) = [line for line in lines if line.startswith("Training took")]
    assert sentence.startswith("Training took 25.5 kWh of electricity and emitted 12.3 kg of CO2e")
    kept = [line for line in readme.read_text(encoding="utf-8").splitlines() if not line.startswith(("Training took", "  emissions:"))]
    assert [line for line in kept if line not in lines] == []
    for line_end in ("\n", "\r\n"):
        readme.write_text(card, encoding="utf-8", newline=line_end)
        assert finished_card(read_facts(stopped), full=False) == card


def test_a_run_without_a_checkpoint_has_no_card(tmp_path: Path, stopped: Path) -> None:
    run_here(["report", write_run(tmp_path / "none"), "--format", "card"]).exits(2, "no checkpoint")
    for name in "ab":
        shutil.copytree(stopped, tmp_path / "two" / name)
    run_here(["report", tmp_path / "two", "--format", "card"]).exits(2, "there are 2 runs (a, b); name one")


def test_the_card_of_stages_is_the_last_one_s_and_of_a_sweep_the_best_one_s(tmp_path: Path, stopped: Path) -> None:
    chain = write_run(tmp_path / "chain", ledger=False, kind="stages", stages={"base": {}, "tune": {}})
    sweep = write_run(tmp_path / "sweep", ledger=False, kind="sweep", trials={"1": {}, "2": {}, "3": {}}, best_trial="2")
    for path in (chain / "base", chain / "tune", *(sweep / name for name in "123")):
        shutil.copytree(stopped, path)
    assert open_runs([chain]).of_one_model().path == chain / "tune"
    assert open_runs([sweep]).of_one_model().path == sweep / "2"
    assert open_runs([sweep]).amounts.emissions_g == pytest.approx(3 * 12345.678)
    run_here(["report", chain, "--format", "card"]).exits(0)
    (sweep / "run.json").write_text((sweep / "run.json").read_text().replace('"best_trial": "2"', '"best_trial": null'))
    with pytest.raises(UsageError, match="there are 4 runs"):
        open_runs([sweep]).of_one_model()
