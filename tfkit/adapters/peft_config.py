"""The file adapter_config.json of the `peft` library, and the base model that it names."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError
from tfkit.families import FAMILIES
from tfkit.hub import Described
from tfkit.hub.config_json import LIMIT, read_config
from tfkit.hub.find import ADAPTER, content_hash, find_checkpoint
from tfkit.model.config import ModelConfig
from tfkit.recipe.schema.objective_facts import OWN_HEADS
from tfkit.recipe.schema.sections import LoraSection
from tfkit.run.model_files import read_object
from tfkit.run.tfkit_json import read_tfkit_json
from tfkit.run.verified import find_named

# Fields of adapter_config.json that, if set, mean other updates than alpha / rank * B A x of whole matrices.
_UNSUPPORTED = (
    *("use_dora", "use_qalora", "lora_bias", "layer_replication", "alora_invocation_tokens", "arrow_config", "use_bdlora"),
    *("target_parameters", "trainable_token_indices", "monteclora_config", "velora_config", "kasa_config"),
)
# Initializations of A and B that leave the base unchanged; the others (pissa, olora, corda, loftq ...) change it.
_INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+|(gpt2|openai-gpt|bert|distilbert|t5)(-[\w.-]+)?")  # the names of the oldest models have no owner
_TASKS = {"classes": "SEQ_CLS", "tags": "TOKEN_CLS", "spans": "QUESTION_ANS", "none": "FEATURE_EXTRACTION"}


@dataclass(frozen=True)
class PeftConfig:
    """The settings of an adapter folder: the base model, the scale of the updates, the task, and whether tied matrices stay tied."""

    base: str  # a folder, or a repository of the Hub
    revision: str | None = None
    alpha: float = 8.0
    alpha_pattern: dict[str, float] = field(default_factory=dict)  # alpha by regular expression, for modules whose names end with a match
    by_root: bool = False  # whether alpha is divided by the square root of the rank (rsLoRA, arXiv 2312.03732)
    task: str | None = None  # peft's task_type, such as SEQ_CLS
    keeps_ties: bool = False  # whether a matrix that is trained in full stays tied as in the base (ensure_weight_tying)

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of a module's update, alpha / rank or alpha / sqrt(rank); `module`: its name in Hugging Face's class."""
        matching = (alpha for pattern, alpha in self.alpha_pattern.items() if re.fullmatch(rf"(.*\.)?({pattern})", module))
        return next(matching, self.alpha) / (rank**0.5 if self.by_root else rank)


def read_peft_config(folder: Path) -> PeftConfig:
    """Read an adapter folder's settings. Raise ModelError if they are invalid, are not LoRA's, or are of a variant that tfkit lacks."""
    path = find_named(folder, ADAPTER)
    assert path is not None
    fields = read_object(path, LIMIT)
    if fields.get("peft_type") != "LORA":
        raise ModelError(f"{path}: peft_type is {str(fields.get('peft_type'))[:80]!r}, but tfkit reads LORA only")
    refused = [name for name in _UNSUPPORTED if fields.get(name)] + ["bias"] * (fields.get("bias", "none") != "none")
    refused += [f"init_lora_weights {fields['init_lora_weights']!r}"] * (fields.get("init_lora_weights") not in _INITIALIZATIONS)
    if refused:
        raise ModelError(f"{path}: {', '.join(refused)}: updates of this kind are not supported; merge them with peft, and load the result")
    base, revision, patterns = fields.get("base_model_name_or_path"), fields.get("revision"), fields.get("alpha_pattern") or {}
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        raise ModelError(f"{path}: base_model_name_or_path does not name the adapter's base model")
    alphas = [fields.get("lora_alpha", 8), *(patterns.values() if isinstance(patterns, dict) else [None])]
    if not all(type(alpha) in (int, float) and abs(alpha) < 1e300 for alpha in alphas):
        raise ModelError(f"{path}: lora_alpha and alpha_pattern must hold numbers below 1e300")
    for pattern in patterns:
        # Only word characters and . \ ^ $ are accepted, because other regular expressions may take exponential time.
        if not re.fullmatch(r"[\w.\\^$]{1,500}", pattern):
            raise ModelError(f"{path}: alpha_pattern {pattern[:80]!r} is not the name of a module; write its name out")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ModelError(f"{path}: alpha_pattern {pattern[:80]!r} is not a regular expression ({error})") from None
    task = fields.get("task_type")
    by_root, keeps_ties = bool(fields.get("use_rslora")), bool(fields.get("ensure_weight_tying"))
    return PeftConfig(base, revision, float(alphas[0]), patterns, by_root, task if isinstance(task, str) else None, keeps_ties)


def peft_settings(
    section: LoraSection, config: ModelConfig, ranks: Mapping[str, int], modules: Sequence[str], saved: Sequence[str], *, transposed: bool
) -> dict[str, Any]:
    """Return the fields of adapter_config.json, without those that name the base. `ranks`: the rank of each updated module; `modules`: all
    modules of Hugging Face's class; `saved`: the modules that are trained in full.

    A module's alpha grows with its rank, so that alpha / rank is the recipe's in every module.
    """
    most_common = max({*ranks.values()}, key=list(ranks.values()).count)
    other_ranks = {name: rank for name, rank in ranks.items() if rank != most_common}
    ends = sorted({name.rpartition(".")[2] for name in ranks})  # such as q or c_attn; peft updates all modules whose names end with one
    is_clear = {name for name in modules if name.rpartition(".")[2] in ends} == ranks.keys()
    language = ("SEQ_2_SEQ_LM" if config.stacks == "both" else "CAUSAL_LM") if config.head.kind == "lm" else None
    return {
        "peft_type": "LORA",
        "task_type": _TASKS.get(config.head.kind, language),
        "r": most_common,
        "lora_alpha": _plain(section.alpha * most_common / section.rank),
        "rank_pattern": other_ranks,
        "alpha_pattern": {name: _plain(section.alpha * rank / section.rank) for name, rank in other_ranks.items()},
        "lora_dropout": section.dropout,
        "target_modules": ends if is_clear else list(ranks),
        "modules_to_save": list(saved) or None,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def find_base(folder: Path, config: PeftConfig) -> Path:
    """Return the folder of the base model: at the path in adapter_config.json (absolute, or relative to the current or the adapter's
    folder), at the path in tfkit.json, or on the Hub.

    Raise ModelError if the base does not exist, is an adapter itself, or has another SHA-256 than the one in tfkit.json.
    """
    stated = read_tfkit_json(folder).adapter.get("base")
    record: dict[str, Any] = stated if isinstance(stated, dict) else {}
    candidates = [Path(config.base), folder / config.base, *([folder / record["path"]] if isinstance(record.get("path"), str) else [])]
    existing = next((path for path in candidates if os.path.isdir(path)), None)  # Path.is_dir fails for too long a name
    if existing is not None:
        base = find_checkpoint(existing)
    elif is_hub_name(config.base):
        base = find_checkpoint(f"hub:{config.base}" + (f"@{config.revision}" if config.revision else ""))
    else:
        raise ModelError(
            f"{folder}: its base {config.base} does not exist: restore it, or set base_model_name_or_path in {ADAPTER} to its new path"
        )
    if find_named(base, ADAPTER) is not None:
        raise ModelError(f"{folder}: its base {base} is itself an adapter; save the base as a whole model first: {how_to_merge(base)}")
    if record.get("sha256") not in (None, (now := content_hash(base))):
        raise ModelError(
            f"{folder}: the updates were trained on a different base model than {base}: the SHA-256 of its weights was {record['sha256']} "
            f"and is now {now}. Restore the base, or set base_model_name_or_path in {ADAPTER} to the path of the right model"
        )
    return base


def is_hub_name(base: object) -> bool:
    """Return whether the name of a base model can be that of a repository of the Hub."""
    return isinstance(base, str) and _HUB_NAME.fullmatch(base) is not None


def how_to_merge(folder: Path) -> str:
    """Return a command that saves an adapter, merged with its base, as a whole model."""
    return f"python -c \"import sys, tfkit; tfkit.load(sys.argv[1]).save('WHOLE')\" {shlex.quote(str(folder))}"


def how_to_merge_in_peft(folder: Path, config: ModelConfig) -> str:
    """Return a command with which peft saves an adapter, merged with its base, as a whole model with untied embeddings."""
    name = f"AutoPeftModelFor{'Seq2SeqLM' if config.stacks == 'both' else 'CausalLM'}"
    lines = f"import sys, peft; whole = peft.{name}.from_pretrained(sys.argv[1]).merge_and_unload()"
    return f"python -c \"{lines}; whole.config.tie_word_embeddings = False; whole.save_pretrained('WHOLE')\" {shlex.quote(str(folder))}"


def with_task_head(config: PeftConfig, base: Described) -> ModelConfig:
    """Return the base's config with the head that peft adds for the adapter's task, if the base lacks it: the head of transformers' class
    for the task, with the number of classes or tags in the base's config.json. Raise ModelError if the base's family has no such head.
    """
    kind = next((kind for kind in OWN_HEADS if _TASKS[kind] == config.task), None)
    if kind in (None, base.config.head.kind):
        return base.config
    classes = FAMILIES[base.family].classes_of(base.config) if base.family in FAMILIES else {}
    name = next((name for name, values in classes.items() if values["kind"] == kind), None)
    if name is None:
        raise ModelError(f"{config.base}: {config.task}: the family {base.family} has no head for this task")
    _, described = read_config(read_object(base.folder / "config.json", LIMIT) | {"architectures": [name]}, base.folder)
    return base.config.model_copy(update={"head": described.head})
