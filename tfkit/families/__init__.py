"""The model families, one file of data each: presets, and a two-way mapping to the Hugging Face layout.

No torch here: a family maps the names of tensors, `tfkit.hub` converts the tensors.
"""

from tfkit.families import bert, distilbert, gemma2, gpt, gpt2, gpt3, llama, mistral, smollm2, t5, transformer_2017
from tfkit.families.rules import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        transformer_2017.FAMILY,
        gpt.FAMILY,
        bert.FAMILY,
        distilbert.FAMILY,
        gpt2.FAMILY,
        gpt3.FAMILY,
        llama.FAMILY,
        t5.FAMILY,
        mistral.FAMILY,
        gemma2.FAMILY,
        smollm2.FAMILY,
    )
}
MODEL_TYPES: dict[str, Family] = {}  # by Hugging Face's model_type; of families that share one, the first
for _family in FAMILIES.values():
    if _family.model_type is not None:
        MODEL_TYPES.setdefault(_family.model_type, _family)
PRESETS = {preset: (family, values) for family in FAMILIES.values() for preset, values in family.presets.items()}
