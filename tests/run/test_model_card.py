"""The card of every kind of model names, according to its head, the Hub's task and the class of transformers that opens it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml  # reads YAML 1.1; the Hub's library uses it
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from transformers.models.auto import modeling_auto as auto

from tfkit.carbon.footprint import Intensity, Reading, RunTotals
from tfkit.families import FAMILIES, PRESETS
from tfkit.hub.config_json import family_of
from tfkit.model.config import ModelConfig
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.run.card import CardBase, CardModel, CardTraining, mean_card, model_card
from tfkit.run.card_facts import BaseCard, CardData, last_name
from tfkit.run.card_impact import CardImpact
from tfkit.run.lineage import Inherited

TASKS = {
    "text-generation": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "text2text-generation": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "fill-mask": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "text-classification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question-answering": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "feature-extraction": auto.MODEL_MAPPING_NAMES,
}
# For each class with two heads, the class with one of them that is in a mapping of transformers.
BESIDE = {"BertForPreTraining": "BertForMaskedLM", "GPT2DoubleHeadsModel": "GPT2LMHeadModel"}
BESIDE |= {"OpenAIGPTDoubleHeadsModel": "OpenAIGPTLMHeadModel"}
# The name of T5ForConditionalGeneration in old files, a class that also reads images, and one whose head is not loaded.
NEVER_WRITTEN = ("T5WithLMHeadModel", "Gemma3ForConditionalGeneration", "ElectraForPreTraining")
KINDS = [
    (one.name, name) for one in FAMILIES.values() if one.model_type is not None for name in one.architectures if name not in NEVER_WRITTEN
]

GPT2 = ModelConfig.model_validate(PRESETS["gpt2"][1])

ROWS = CardData(["rows.jsonl"], validation={"": "rows.jsonl (held out)"})


def card_of(config: ModelConfig, family: str | None, **changes: Any) -> str:
    found = family_of(config, prefer=family)
    model = CardModel("run", config, found.architecture(config) if found else None, 7, changes.get("labels", ()))
    training = CardTraining("fine-tuning", 3, 9, 0.5, changes.get("evaluation", {"accuracy": 0.25}))
    impact = changes.get("impact", CardImpact(Reading(), "Abacus 9"))
    return model_card(model, training, changes.get("data", ROWS), impact, changes.get("start"))


def front_matter(card: str) -> dict[str, Any]:
    about: dict[str, Any] = YAML(typ="safe").load(card.removeprefix("---\n").split("\n---\n", 1)[0])
    return about


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("family", "name"), KINDS)
def test_task_and_class_are_those_of_transformers(family: str, name: str) -> None:
    values = next(values for known, values in PRESETS.values() if known.name == family)
    architecture = FAMILIES[family].architectures[name]
    head: dict[str, Any] = {"tags": {"count": 2}, "classes": {"count": 2, "pool": "first"}}.get(architecture["kind"], {})
    if architecture["kind"] in ("lm", "masked_lm"):
        head = {key: value for key, value in values["head"].items() if key in ("tied", "bias", "scale", "softcap")}
    config = ModelConfig.model_validate(values | {"head": head | architecture})
    card = card_of(config, family)
    about, body = front_matter(card), card.removeprefix("---\n").split("\n---\n", 1)[1]
    assert about["library_name"] == "transformers"
    assert BESIDE.get(name, name) in TASKS[about["pipeline_tag"]].values()
    assert f"\n    transformers.{name}.from_pretrained" in body
    assert hasattr(transformers, name)
    assert ("tfkit generate --from ." in body) == (about["pipeline_tag"] in ("text-generation", "text2text-generation", "fill-mask"))


def test_the_size_names_the_layers_of_each_stack_and_a_model_that_only_tfkit_computes_says_so() -> None:
    for preset, size in {"gpt2": "12, 768, 12 (12 for keys and values)", "t5-small": "6 + 6, 512, 8 (8 for keys and values)"}.items():
        family, values = PRESETS[preset]
        assert f"| layers, width, heads | {size} |" in card_of(ModelConfig.model_validate(values), family.name)
    values = PRESETS["gpt2"][1] | {"position": {"kind": "sinusoidal"}}
    card = card_of(ModelConfig.model_validate(values), None)
    assert "library_name: tfkit\n" in card
    assert "It opens with `tfkit`; `transformers` has no class for it:\n\n    tfkit generate --from ." in card


def test_an_adapter_says_how_peft_opens_it_on_its_base() -> None:
    base: dict[str, Any] = {"start": CardBase("hub:openai-community/gpt2@main", adapter=True)}
    card = card_of(GPT2, "gpt2", **base)
    assert "library_name: peft\n" in card
    opening = 'peft.PeftModel.from_pretrained(transformers.GPT2LMHeadModel.from_pretrained("openai-community/gpt2"), ".")'
    assert f"It opens with `peft` and with `tfkit`:\n\n    {opening}\n    tfkit generate --from ." in card
    assert "| updates of | openai-community/gpt2 |" in card
    assert front_matter(card).items() >= {"base_model": "openai-community/gpt2", "base_model_relation": "adapter"}.items()
    local = card_of(GPT2, "gpt2", start=CardBase("/home/someone/base", adapter=True))
    assert 'GPT2LMHeadModel.from_pretrained(peft.PeftConfig.from_pretrained(".").base_model_name_or_path), ".")' in local
    assert "someone" not in local
    tagger = ModelConfig.model_validate(PRESETS["gpt2"][1] | {"head": {"kind": "tags", "count": 5}})
    assert 'GPT2ForTokenClassification.from_pretrained("openai-community/gpt2", num_labels=5), ".")' in card_of(tagger, "gpt2", **base)


def test_the_hub_s_library_reads_the_metadata() -> None:
    """Scores are results of `model-index`, each with its validation set; also base model, data sets, languages and licence."""
    repocard = pytest.importorskip("huggingface_hub.repocard")
    train = [{"path": "/home/someone/secret/rows.csv"}, {"hub": "org/reviews"}, {"stdlib": "docstrings"}]
    validation = [{"path": "a/dev.csv", "name": "dev"}, {"hub": "org/reviews", "split": "test", "name": "dev.2"}]
    section = DataSection.model_validate({"train": train, "validation": validation, "language": ["en", "no"]})
    scores = {"loss": 0.5, "accuracy": 1e-5, "dev.loss": 0.25, "dev.accuracy": None, "dev.2.accuracy": 0.75, "dev.2.target_tokens": 7.0}
    head = FAMILIES["bert"].architectures["BertForSequenceClassification"] | {"count": 31}
    facts = {"data": CardData.of(section), "labels": ["yes|no", *map(str, range(30))], "evaluation": {**scores, "perplexity": float("inf")}}
    start = CardBase("/home/someone/runs/base/checkpoints/step-000500", BaseCard("apache-2.0", ("de",)))
    card = card_of(ModelConfig.model_validate(PRESETS["bert-base"][1] | {"head": head}), "bert", start=start, **facts)
    assert "someone" not in card
    assert "| data | rows.csv, org/reviews, Python's standard library, docstrings |" in card
    assert "| labels | yes\\|no, 0, 1," in card
    assert "18 and 11 more |" in card
    data = repocard.ModelCard(card).data
    assert (data.language, data.license, data.base_model, data.datasets) == (["en", "no"], "apache-2.0", None, ["org/reviews"])
    assert "| base model | base |" in card  # a folder of this machine, whose name would be another model on the Hub
    assert {one.task_type for one in data.eval_results} == {"text-classification"}
    assert [(one.dataset_name, one.metric_type, one.metric_value) for one in data.eval_results] == [
        *(("dev.csv, org/reviews", "loss", 0.5), ("dev.csv, org/reviews", "accuracy", 1e-5)),
        *(("dev.csv", "loss", 0.25), ("org/reviews", "accuracy", 0.75)),
    ]
    assert front_matter(card)["model-index"][0]["name"] == "run"
    mean = mean_card(card, ["step-000400", "step-000500"])
    assert {*front_matter(mean)} == {*front_matter(card)} - {"model-index"}, "the scores are those of one checkpoint"


def test_the_impact_has_the_five_lines_of_ml_co2_impact_and_what_they_leave_out() -> None:
    parts = {"cpu_wh": 9.0, "ram_wh": 27.0}
    place, provenance = "FRA, 56 g/kWh (2023 mean, carbon.country)", "CPU model, RAM constant"
    reading = Reading(36.0, 2.016, 20.0, 1800.0, "ok", place, provenance, **parts)
    intensity = Intensity(g_per_kwh=56.0, source="carbon.country", year=2023)
    known = RunTotals(seconds=3600.0, train_flops=1.234e15, rework_g=0.5, coverage=0.987)
    totals = known.filled_from(RunTotals(tokens=4_000_000, train_flops=1e15, pue=1.2, intensity=intensity))
    impact = CardImpact(reading, "Abacus 9", Inherited(0.3, 3.1, True), totals)
    card = card_of(GPT2, "gpt2", impact=impact)
    section = card.split("\n## Environmental impact\n")[1].strip().splitlines()[2:]
    assert dict(line.strip("| ").split(" | ") for line in section) == {
        "hardware type": "Abacus 9",
        "hours used": "1 (1:00:00)",
        "cloud provider": "not stated",
        "compute region": "FRA",
        "carbon emitted": "2 g CO2e",
        "computation": "1.23e+15 FLOP by the architecture",
        "per million tokens": "504 mg CO2e",
        "lost and done again": "500 mg CO2e of it",
        "inherited": "at least 3.1 g CO2e from the models behind this one; with this run at least 5.1 g",
        "grid": "56 g/kWh (carbon.country, 2023)",
        "PUE": "1.2, included",
        "modelled": "100% of the energy (CPU model, RAM constant)",
        "time measured": "98.7%",
    }
    assert front_matter(card)["co2_eq_emissions"]["emissions"] == 2.016
    assert "Environmental impact" not in card_of(GPT2, "gpt2")
    early = CardImpact(replace(reading, status="degraded", provenance="GPU counter, CPU model", gpu_wh=27.0, ram_wh=0.0), "Abacus 9")
    rows = early.rows()
    assert (rows["carbon emitted"], rows["modelled"]) == ("at least 2 g CO2e", "25% of the energy (GPU counter, CPU model)")
    assert rows["hours used"] == "0.5 (30:00)"
    mixed = replace(early, reading=replace(reading, provenance="CPU counter, model, RAM constant"), totals=RunTotals(modelled_share=0.6))
    assert mixed.rows()["modelled"] == "60% of the energy (CPU counter, model, RAM constant)"
    assert not {"computation", "per million tokens", "inherited", "grid", "PUE", "time measured", "lost and done again"} & {*rows}


def test_a_card_names_no_folder_above() -> None:
    for path, name in {
        "models/gpt2": "gpt2",
        "/home/me/gpt2/": "gpt2",
        r"C:\Users\me\gpt2": "gpt2",
        "runs/base/checkpoints/step-000500": "base",
        "hub:org/name@abc": "org/name",
        "/home/me/hub/models--org--na--me/snapshots/0a1b": "org/na--me",
        "../data/*.jsonl": "*.jsonl",
    }.items():
        assert last_name(path) == name


@pytest.mark.parametrize(
    ("front", "card"),
    [
        ("license: mit\nlanguage: en", BaseCard("mit", ("en",))),
        ('license: "cc-by-4.0"\nlanguage:\n- en\n- "no"\n- pt-BR\ntags: [x]', BaseCard("cc-by-4.0", ("en", "no", "pt-BR"))),
        ("language: [en, de]\nlicense: other\nlicense_name: mine", BaseCard("", ("en", "de"))),
        ("tags: [license, language]", BaseCard()),
        *((f'license: "{licence}"', BaseCard(licence)) for licence in ("no", "on", "1e3")),
    ],
)
def test_licence_and_languages_come_from_the_base_s_card(front: str, card: BaseCard, tmp_path: Path) -> None:
    assert BaseCard.read(tmp_path) == BaseCard()
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n\n# A model\nlicense: gpl\n", encoding="utf-8")
    assert BaseCard.read(tmp_path) == card
    (tmp_path / "README.md").write_text(card_of(GPT2, "gpt2", start=CardBase("base", card)), encoding="utf-8")
    assert BaseCard.read(tmp_path).license == card.license, "it is passed on"


WORDS = st.sampled_from(
    ["no", "on", "y", "1e3", "0x1f", "012", "1_0", "1:30", ".inf", "~", "null", "2020-01-01", "=", "<<", "- a", "a: b", "#"]
)
TEXTS = WORDS | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(TEXTS, TEXTS.filter(lambda name: "@" not in name), TEXTS, TEXTS)  # "@" begins a revision
def test_every_text_of_the_metadata_is_read_back_as_that_text(licence: str, base: str, name: str, metric: str) -> None:
    """The readers are of YAML 1.1, which the Hub's library uses, and of 1.2."""
    data = CardData(["rows"], [f"org/{name}"], {"": name}, languages=[licence])
    start = CardBase(f"hub:{base}@main", BaseCard(licence, (licence,)))
    card = card_of(GPT2, "gpt2", start=start, data=data, evaluation={f"x{metric}": 0.5})
    front = card.removeprefix("---\n").split("\n---\n", 1)[0]
    for about in (YAML(typ="safe").load(front), yaml.safe_load(front)):
        [model] = about["model-index"]
        [result] = model["results"]
        assert about["license"] == licence
        assert about["base_model"] == last_name(f"hub:{base}@main")
        assert (about["language"], about["datasets"]) == ([licence], [f"org/{name}"])
        assert result["dataset"] == {"name": name, "type": name}
        assert [one["type"] for one in result["metrics"]] == ([] if metric.endswith("target_tokens") else [f"x{metric}"])


def reading(grams: float, status: str = "ok") -> Reading:
    return Reading(grams * 10, grams, 20.0, 60.0, status, "FRA, 56 g/kWh (2023 mean, carbon.country)", "CPU model, RAM constant")


@settings(deadline=None)
@given(st.floats(1e-4, 1e12))
def test_grams_are_written_so_that_the_hub_reads_them(tmp_path_factory: pytest.TempPathFactory, grams: float) -> None:
    """The Hub reads the first number in the text, without an exponent."""
    block = CardImpact(reading(grams), "2 cores").front("pre-training")
    path = tmp_path_factory.mktemp("card") / "card.yaml"
    yaml = YAML()
    yaml.dump({"co2_eq_emissions": block}, path)
    for text in (re.search("emissions: (.*)", path.read_text().split("\n", 1)[1])[1], json.dumps(block["emissions"])):
        assert float(re.search(r"\d+\.?\d*", text)[0]) == pytest.approx(grams, rel=1e-3)
        assert float(text) == pytest.approx(grams, rel=1e-3)


def test_a_block_has_the_five_keys_of_the_hub() -> None:
    block = CardImpact(reading(12.5), "1 x Abacus").front("fine-tuning")
    assert block == {
        "emissions": 12.5,
        "source": "CodeCarbon via tfkit; CPU model, RAM constant",
        "training_type": "fine-tuning",
        "geographical_location": "FRA, 56 g/kWh (2023 mean, carbon.country)",
        "hardware_used": "1 x Abacus",
    }


def test_no_block_where_there_is_nothing_to_state() -> None:
    for one in (reading(0.99e-4), Reading(), reading(1.0, "starting")):
        assert CardImpact(one, "x").front("pre-training") == {}


def test_the_sentence_says_how_the_number_was_had() -> None:
    place = "(FRA, 56 g/kWh (2023 mean, carbon.country), CPU model, RAM constant)"
    for one, sentence in (
        (reading(2e-5), f"Training took 0.2 mWh of electricity and emitted 20 ug of CO2e {place}."),
        (reading(1234.0, "degraded"), f"Training took at least 12.3 kWh of electricity and emitted 1.2 kg of CO2e {place}."),
        (Reading(), "Energy and emissions were not measured."),
        (Reading(status="degraded"), "Energy and emissions could not be measured."),
    ):
        assert CardImpact(one, "x").sentence() == sentence
