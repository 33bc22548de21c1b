"""The model families, one file of data each, with presets (published sizes) and a two-way mapping to the Hugging Face layout.

A family only says which tensors correspond; `tfkit.hub` converts them, so no file here imports torch. A family's file is imported when
the family is looked up.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tfkit.families.rules import Family

Value = TypeVar("Value")

# The names of the families and of their files.
_NAMES = (
    *("transformer_2017", "gpt", "bert", "distilbert", "gpt2", "gpt3", "llama", "t5", "mistral", "gemma2", "smollm2"),
    *("qwen2", "qwen3", "gemma", "gemma3", "smollm3", "olmo2", "olmo3", "phi", "pythia", "opt", "mixtral", "olmoe", "qwen3_moe"),
    *("roberta", "xlm_roberta", "camembert", "modernbert", "electra", "mpnet", "bart", "mbart", "mt5", "flan_t5", "byt5"),
    "deberta_v3",
)
# Family -> Hugging Face's model_types, if these are not just the name of the family.
_TYPES: dict[str, tuple[str, ...]] = {
    "transformer_2017": ("marian",),
    "gpt": ("openai-gpt",),
    "phi": ("phi3",),
    "pythia": ("gpt_neox",),
    "gemma3": ("gemma3", "gemma3_text"),  # a model that also reads images, and its text part alone
    "xlm_roberta": ("xlm-roberta",),
    "deberta_v3": ("deberta-v2",),
    **dict.fromkeys(("gpt3", "smollm2", "flan_t5", "byt5"), ()),  # they share the type of another family or, like gpt3, have none
}
_MODEL_TYPES = {kind: name for name, kinds in _TYPES.items() for kind in kinds if kind != name}
_MODEL_TYPES |= {name: name for name in _NAMES if name in _TYPES.get(name, (name,))}
# Family -> the architecture of llama.cpp that computes its models.
GGUF_ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral", "smollm2", "mixtral"), "llama"),
    "qwen3_moe": "qwen3moe",
    **{name: name for name in ("gpt2", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "smollm3", "olmo2", "olmoe")},
}


class _Lookup(Mapping[str, Value]):
    """Values by name, each found when it is looked up. `names`: returns all names; `find`: returns a name's value, or raises KeyError."""

    def __init__(self, names: Callable[[], Iterable[str]], find: Callable[[str], Value]):
        self._names, self._find = names, find

    def __getitem__(self, name: str) -> Value:
        return self._find(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _family(name: str) -> Family:
    if name not in _NAMES:
        raise KeyError(name)
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def _preset(name: str) -> tuple[Family, dict[str, Any]]:
    names = [family for family in _NAMES if name.replace("-", "_").startswith(family)]
    if not names:
        raise KeyError(name)
    family = _family(max(names, key=len))
    return family, family.presets[name]


FAMILIES = _Lookup(lambda: _NAMES, _family)
# The presets of all families, each with its family. A preset's name begins with that of its family.
PRESETS = _Lookup(lambda: (name for family in FAMILIES.values() for name in family.presets), _preset)
# The families by Hugging Face's model_type; of several families with the same type, the one that is named like it.
MODEL_TYPES = _Lookup(lambda: _MODEL_TYPES, lambda kind: _family(_MODEL_TYPES[kind]))
