import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tfkit.carbon.reading import Reading
from tfkit.run.card_impact import CardImpact


def reading(grams, status="ok"):
    return Reading(grams * 10, grams, 20.0, 60.0, status, "FRA, 56 g/kWh (2023 mean, carbon.country)", "CPU model, RAM constant")


@settings(deadline=None)
@given(st.floats(1e-4, 1e12))
def test_grams_are_written_so_that_the_hub_reads_them(tmp_path_factory, grams):
    """The Hub reads the first number in the text, without an exponent."""
    block = CardImpact(reading(grams), "2 cores").front("pre-training")
    path = tmp_path_factory.mktemp("card") / "card.yaml"
    yaml = YAML()
    yaml.dump({"co2_eq_emissions": block}, path)
    for text in (re.search("emissions: (.*)", path.read_text().split("\n", 1)[1])[1], json.dumps(block["emissions"])):
        assert float(re.search(r"\d+\.?\d*", text)[0]) == pytest.approx(grams, rel=1e-3)
        assert float(text) == pytest.approx(grams, rel=1e-3)


def test_a_block_has_the_five_keys_of_the_hub():
    block = CardImpact(reading(12.5), "1 x Abacus").front("fine-tuning")
    assert block == {
        "emissions": 12.5,
        "source": "CodeCarbon via tfkit; CPU model, RAM constant",
        "training_type": "fine-tuning",
        "geographical_location": "FRA, 56 g/kWh (2023 mean, carbon.country)",
        "hardware_used": "1 x Abacus",
    }


def test_no_block_where_there_is_nothing_to_state():
    assert CardImpact(reading(0.99e-4), "x").front("pre-training") == {}
    assert CardImpact(Reading(), "x").front("pre-training") == {}
    assert CardImpact(reading(1.0, "starting"), "x").front("pre-training") == {}


def test_the_sentence_says_how_the_number_was_had():
    place = "(FRA, 56 g/kWh (2023 mean, carbon.country), CPU model, RAM constant)"
    assert CardImpact(reading(2e-5), "x").sentence() == f"Training took 0.2 mWh of electricity and emitted 20 ug of CO2e {place}."
    assert (
        CardImpact(reading(1234.0, "degraded"), "x")
        .sentence()
        .startswith("Training took at least 12.3 kWh of electricity and emitted 1.2 kg of CO2e")
    )
    assert CardImpact(Reading(), "x").sentence() == "Energy and emissions were not measured."
    assert CardImpact(Reading(status="degraded"), "x").sentence() == "Energy and emissions could not be measured."
