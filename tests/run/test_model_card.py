"""The card of every kind of model: the Hub's name for what it is for, and a class of transformers that opens it, by its head."""

from pathlib import Path

import pytest
import transformers
from ruamel.yaml import YAML
from transformers.models.auto import modeling_auto as auto

from tfkit.carbon.reading import Reading
from tfkit.families import FAMILIES, PRESETS
from tfkit.hub import family_of
from tfkit.model.config import ModelConfig
from tfkit.run.card import model_card

TASKS = {
    "text-generation": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "text2text-generation": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "fill-mask": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "text-classification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "feature-extraction": auto.MODEL_MAPPING_NAMES,
}
# Of classes with two heads, the one that stands in a mapping.
BESIDE = {
    "BertForPreTraining": "BertForMaskedLM",
    "GPT2DoubleHeadsModel": "GPT2LMHeadModel",
    "OpenAIGPTDoubleHeadsModel": "OpenAIGPTLMHeadModel",
}
OLD = "T5WithLMHeadModel"  # what old files call T5ForConditionalGeneration, and none that are written
KINDS = [(one.name, name) for one in FAMILIES.values() if one.model_type is not None for name in one.architectures if name != OLD]


def card_of(config: ModelConfig, family: str | None, base: Path | None = None) -> str:
    found = family_of(config, prefer=family)
    return model_card(
        name="run",
        kind="fine-tuning",
        config=config,
        architecture=found.architecture(config) if found else None,
        parameters=7,
        progress={"steps": 3, "tokens": 9, "loss": 0.5},
        evaluation={"accuracy": 0.25},
        data=["rows.jsonl"],
        reading=Reading(),
        base=base,
    )


@pytest.mark.parametrize(("family", "name"), KINDS)
def test_task_and_class_are_those_of_transformers(family: str, name: str) -> None:
    values = next(values for known, values in PRESETS.values() if known.name == family)
    head = {"count": 2} if FAMILIES[family].architectures[name]["kind"] in ("classes", "tags") else {}
    if FAMILIES[family].architectures[name]["kind"] in ("lm", "masked_lm"):
        head = {key: value for key, value in values["head"].items() if key in ("tied", "bias", "scale", "softcap")}
    config = ModelConfig.model_validate(values | {"head": {**head, **FAMILIES[family].architectures[name]}})
    card = card_of(config, family)
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    about = YAML(typ="safe").load(front)
    assert about["library_name"] == "transformers"
    assert BESIDE.get(name, name) in TASKS[about["pipeline_tag"]].values()
    assert f"\n    transformers.{name}.from_pretrained" in body
    assert hasattr(transformers, name)
    assert ("tfkit generate --from ." in body) == (about["pipeline_tag"] in ("text-generation", "text2text-generation", "fill-mask"))


def test_a_model_that_only_tfkit_computes_says_so() -> None:
    values = PRESETS["gpt2"][1] | {"position": {"kind": "rotary"}}
    card = card_of(ModelConfig.model_validate(values), None)
    assert "library_name: tfkit\n" in card
    assert "It opens with `tfkit`; `transformers` has no class for it:\n\n    tfkit generate --from ." in card


def test_an_adapter_says_how_peft_opens_it_on_its_base() -> None:
    card = card_of(ModelConfig.model_validate(PRESETS["gpt2"][1]), "gpt2", Path("models/gpt2"))
    assert "library_name: peft\n" in card
    opening = 'peft.PeftModel.from_pretrained(transformers.GPT2LMHeadModel.from_pretrained("models/gpt2"), ".")'
    assert f"It opens with `peft` and with `tfkit`:\n\n    {opening}\n    tfkit generate --from ." in card
    assert "| updates of | models/gpt2 |" in card
    tagger = ModelConfig.model_validate(PRESETS["gpt2"][1] | {"head": {"kind": "tags", "count": 5}})
    assert 'GPT2ForTokenClassification.from_pretrained("models/gpt2", num_labels=5), ".")' in card_of(tagger, "gpt2", Path("models/gpt2"))
