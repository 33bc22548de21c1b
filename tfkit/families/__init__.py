"""The families of the field's history, each one file of data: presets, and a two-way map to its Hugging Face layout.

No torch here: a family says which tensor is which, `tfkit.hub` moves them.
"""

from tfkit.families import gpt2, llama
from tfkit.families.rules import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (gpt2.FAMILY, llama.FAMILY)}
PRESETS = {preset: (family, values) for family in FAMILIES.values() for preset, values in family.presets.items()}
