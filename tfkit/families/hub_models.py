"""Models of the Hugging Face Hub by name: the presets of released models, and the nearest model_type to one that tfkit lacks."""

import difflib

from tfkit.families import FAMILIES, MODEL_TYPES, PRESETS

_GOOGLE_SIZES = {"bert-tiny": "L-2_H-128_A-2", "bert-mini": "L-4_H-256_A-4", "bert-small": "L-4_H-512_A-8", "bert-medium": "L-8_H-512_A-8"}
RELEASES: dict[str, str] = {  # repository -> preset
    "openai-community/openai-gpt": "gpt",
    **{f"openai-community/{name}": name for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")},
    **{f"google/bert_uncased_{size}": name for name, size in _GOOGLE_SIZES.items()},
    **{f"prajjwal1/{name}": name for name in _GOOGLE_SIZES},
    **{f"google-bert/{name}-uncased": name for name in ("bert-base", "bert-large")},
    **{f"google-bert/{name}": name for name in ("bert-base-cased", "bert-large-cased")},
    "distilbert/distilbert-base-uncased": "distilbert-base",
    **{f"distilbert/{name}": name for name in ("distilbert-base-cased", "distilbert-base-multilingual-cased")},
    **{f"google-t5/t5-{size}": f"t5-{size}" for size in ("small", "base", "large", "3b", "11b")},
    **{f"google/t5-v1_1-{size}": f"t5-v1.1-{size}" for size in ("small", "base", "large", "xl", "xxl")},
    **{f"huggyllama/llama-{theirs}": f"llama-{ours}" for theirs, ours in {"7b": "7b", "13b": "13b", "30b": "33b", "65b": "65b"}.items()},
    **{f"meta-llama/Llama-2-{size}-hf": f"llama2-{size}" for size in ("7b", "13b", "70b")},
    **{f"meta-llama/Meta-Llama-3-{size}": f"llama3-{size.lower()}" for size in ("8B", "70B")},
    **{f"meta-llama/Llama-3.1-{size}": f"llama3.1-{size.lower()}" for size in ("8B", "70B", "405B")},
    **{f"meta-llama/Llama-3.2-{size}": f"llama3.2-{size.lower()}" for size in ("1B", "3B")},
    **{f"mistralai/Mistral-7B-v0.{version}": f"mistral-7b-v0.{version}" for version in (1, 2, 3)},
    **{f"google/gemma-2-{size}": f"gemma2-{size}" for size in ("2b", "9b", "27b")},
    **{f"HuggingFaceTB/SmolLM2-{size}": f"smollm2-{size.lower()}" for size in ("135M", "360M", "1.7B")},
    **{f"Qwen/Qwen2-{size}": f"qwen2-{size.lower()}" for size in ("0.5B", "1.5B", "7B", "72B")},
    **{f"Qwen/Qwen2.5-{size}": f"qwen2.5-{size.lower()}" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B")},
    **{f"Qwen/Qwen3-{size}-Base": f"qwen3-{size.lower()}" for size in ("0.6B", "1.7B", "4B", "8B", "14B")},
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-30B-A3B-Base": "qwen3-moe-30b-a3b",
    "Qwen/Qwen3-235B-A22B": "qwen3-moe-235b-a22b",
    **{f"mistralai/Mixtral-8x{size}-v0.1": f"mixtral-8x{size.lower()}" for size in ("7B", "22B")},
    "allenai/OLMoE-1B-7B-0924": "olmoe-1b-7b",
    **{f"google/gemma-{size}": f"gemma-{size}" for size in ("2b", "7b")},
    **{f"google/gemma-3-{size}-pt": f"gemma3-{size}" for size in ("1b", "4b", "12b", "27b")},
    "google/gemma-3-270m": "gemma3-270m",
    "HuggingFaceTB/SmolLM3-3B-Base": "smollm3-3b",
    **{f"allenai/OLMo-2-{name}": f"olmo2-{name[5:].lower()}" for name in ("0425-1B", "1124-7B", "1124-13B", "0325-32B")},
    **{f"allenai/Olmo-3-{name}": f"olmo3-{name[5:].lower()}" for name in ("1025-7B", "1125-32B")},
    **{f"microsoft/Phi-3-{size}-4k-instruct": f"phi3-{size}-4k" for size in ("mini", "medium")},
    "microsoft/phi-4": "phi4-14b",
    **{
        f"EleutherAI/pythia-{size}": f"pythia-{size}" for size in ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
    },
    **{f"facebook/opt-{size}": f"opt-{size}" for size in ("125m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b")},
    **{f"FacebookAI/{name}": name for name in ("roberta-base", "roberta-large", "xlm-roberta-base", "xlm-roberta-large")},
    "almanach/camembert-base": "camembert-base",
    "almanach/camembert-large": "camembert-large",
    "answerdotai/ModernBERT-base": "modernbert-base",
    "answerdotai/ModernBERT-large": "modernbert-large",
    **{f"google/electra-{size}-discriminator": f"electra-{size}" for size in ("small", "base", "large")},
    **{f"google/electra-{size}-generator": f"electra-{size}-generator" for size in ("small", "base", "large")},
    "microsoft/mpnet-base": "mpnet-base",
    **{f"microsoft/deberta-v3-{size}": f"deberta-v3-{size}" for size in ("xsmall", "small", "base", "large")},
    "microsoft/mdeberta-v3-base": "deberta-v3-base-multilingual",
    **{f"facebook/{name}": name for name in ("bart-base", "bart-large", "mbart-large-cc25", "mbart-large-50")},
    **{
        f"google/{name}-{size}": f"{name}-{size}" for name in ("mt5", "flan-t5", "byt5") for size in ("small", "base", "large", "xl", "xxl")
    },
}
_BY_NAME = {name.lower(): preset for release, preset in RELEASES.items() for name in (release, release.rpartition("/")[2])}

# Implemented model_type -> the model_types that are not implemented, and beginnings of models' names, to which it is nearest.
_NEAREST = {
    "bert": ("albert", "xlm"),
    "deberta-v2": ("deberta",),
    "electra": ("convbert",),
    "roberta": ("esm", "longformer", "roberta-prelayernorm"),
    "modernbert": ("modernbert-decoder",),
    "xlm-roberta": ("xlm-roberta-xl", "xmod"),
    "gpt2": ("gpt_neo", "gptj", "bloom", "codegen", "gpt_bigcode", "xglm", "ctrl", "transfo-xl", "phi"),
    "llama": ("olmo", "stablelm", "falcon", "granite", "cohere", "internlm2", "yi"),
    "phi3": ("phi-3", "phi-3.5", "phi-4"),
    "qwen3": ("qwen3_next",),
    "qwen3_moe": ("qwen2_moe",),
    "mistral": ("ministral",),
    "mixtral": ("minimax", "phimoe", "jetmoe"),
    "olmoe": ("flex_olmo",),
    "gemma": ("recurrent_gemma",),
    "gemma3": ("gemma3n", "gemma3n_text"),
    "t5": ("umt5", "longt5", "switch_transformers"),
    "marian": ("pegasus", "fsmt"),
    "bart": ("blenderbot", "prophetnet", "led", "plbart"),
    "mbart": ("m2m_100", "nllb-moe"),
}


def preset_of(name: str) -> str:
    """Return the preset of a model named as on the Hub, with or without its organization; any other name unchanged."""
    return name if name in PRESETS else _BY_NAME.get(name.lower(), name)


def unknown_preset(name: str) -> str:
    """Return the error message for an unknown preset: the nearest family or probable name, and one preset of each family."""
    lower = name.lower().rpartition("/")[2]
    meant = difflib.get_close_matches(lower, [*PRESETS, *_BY_NAME], n=1, cutoff=0.75)
    if (listed := _listed_nearest(lower)) is not None:
        hint = f"the nearest family is {listed}."
    else:
        hint = f"did you mean {meant[0]}?" if meant else "give another."
    examples = ", ".join(next(iter(family.presets)) for family in FAMILIES.values())
    return f"{name!r} is not a preset; {hint} Presets are {examples} and others; `tfkit check --schema` lists all {len(PRESETS)}"


def nearest_type(name: str) -> str | None:
    """Return the implemented model_type nearest to one that is not implemented; None if none is near."""
    close = difflib.get_close_matches(name, MODEL_TYPES, n=1, cutoff=0.8)
    return _listed_nearest(name) or (close[0] if close else next((known for known in MODEL_TYPES if known in name), None))


def _listed_nearest(name: str) -> str | None:
    """Return the implemented model_type that _NEAREST lists for a model_type, or for the longest listed beginning of a model's name."""
    listed = {other: nearest for nearest, others in _NEAREST.items() for other in others if f"{name}-".startswith(f"{other}-")}
    return listed[max(listed, key=len)] if listed else None
