"""Hugging Face model folders <-> Transformer. The only place where a family's rules and tensors meet.

Loading is strict both ways: every foreign tensor is mapped or known to carry nothing, every parameter of ours is filled. safetensors
and JSON only: a pickle can run code, so it is refused.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.families import FAMILIES
from tfkit.families.rules import Family, Rule
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.tokenizer import Tokenizer, load_tokenizer, save_tokenizer

OWN_TYPE = "tfkit"  # model_type of what no Hugging Face class can express: it fails to load elsewhere rather than load wrong
_EXPRESSED = {"init", "dropout"}  # how a model is trained, not what it computes; kept in tfkit.json
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Loaded:
    """A model folder in memory. `codec`, our view of its tokenizer, is None where the folder has none; `family` is a family's name, or
    tfkit's own.
    """

    model: Transformer
    codec: Tokenizer | None
    config: ModelConfig
    family: str
    folder: Path
    special_ids: dict[str, Any] = field(default_factory=dict)  # bos, eos and pad ids as config.json has them

    @property
    def tokenizer(self) -> tokenizers.Tokenizer | None:
        """The tokenizer itself, as the `tokenizers` library knows it."""
        return self.codec.backend if self.codec else None

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a text: config.json may list several."""
        found = self.special_ids.get("eos_token_id")
        if found is None and self.codec is not None:
            found = self.codec.eos_id
        return [] if found is None else list(found) if isinstance(found, list) else [found]

    def save(self, folder: str | Path) -> None:
        """Write the model folder that training writes: float32 weights, configuration, tokenizer."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(Path(folder), self.config, self.model.state_dict(), self.codec, family=self.family, special_ids=self.special_ids)


# ---------------------------------------------------------------------------------------------------------------- reading


def load(path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a checkpoint, a run folder (its best checkpoint, else its newest) or any Hugging Face model folder with safetensors.

    Raises ModelError when it is missing, damaged, unsupported or does not fit its own configuration.
    """
    folder = find_checkpoint(path)
    hf = _read_json(folder / "config.json")
    family, config = read_config(hf, folder)
    foreign = _read_tensors(folder)
    if family is None:
        tensors = foreign
    else:
        tensors, config = _from_foreign(foreign, family, config, folder)
    model = _fill(config, {name: tensor.to(dtype) for name, tensor in tensors.items()}, folder)
    special_ids = {name: hf[name] for name in _IDS if hf.get(name) is not None}
    return Loaded(model.to(device), load_tokenizer(folder), config, family.name if family else OWN_TYPE, folder, special_ids)


def find_checkpoint(path: str | Path) -> Path:
    """The model folder that a path means: itself, a run folder's best or else newest checkpoint, or `hub:org/name@revision`."""
    if str(path).startswith("hub:"):
        return _download(str(path)[4:])
    folder = Path(path)
    if (folder / "config.json").is_file():
        return folder
    if (folder / "checkpoints").is_dir():
        from tfkit.run.checkpoints import best_checkpoint, newest_checkpoint

        found = best_checkpoint(folder / "checkpoints") or newest_checkpoint(folder / "checkpoints")
        if found:
            return found
        raise ModelError(f"{folder}: this run has no complete checkpoint yet")
    if not folder.exists():
        raise ModelError(f"{folder}: there is no such folder; --from takes a checkpoint, a run folder, or a Hugging Face model folder")
    raise ModelError(f"{folder}: no config.json here, so this is neither a model folder nor a run folder")


def read_config(hf: Mapping[str, Any], folder: Path) -> tuple[Family | None, ModelConfig]:
    """The family (None: tfkit's own type) and our description of the model of a config.json."""
    kind = hf.get("model_type")
    if kind != OWN_TYPE and kind not in FAMILIES:
        raise ModelError(f"{folder / 'config.json'}: model_type {kind!r} is not one that tfkit can load ({', '.join(FAMILIES)})")
    family = FAMILIES.get(str(kind))
    try:
        config = ModelConfig.model_validate(family.from_hf(dict(hf)) if family else hf["config"])
        ours = folder / "tfkit.json"
        if family and ours.is_file():
            config = ModelConfig.model_validate(config.model_dump() | _read_json(ours).get("model", {}))
    except KeyError as missing:
        raise ModelError(f"{folder / 'config.json'}: the field {missing} is missing") from None
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{folder / 'config.json'}: {what}") from None
    return family, config


def _download(name: str) -> Path:
    """A snapshot of a hub repository: configuration, safetensors and tokenizer only, never code or pickles."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(f"hub:{name}: could not be downloaded: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: is not a JSON object")
    return document


def _read_tensors(folder: Path) -> Tensors:
    """All tensors of model.safetensors, or of the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise ModelError(f"{index}: names a file outside the folder")
    else:
        names = ["model.safetensors"]
    tensors: Tensors = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
            why = f"; {pickles[0]} is a pickle, which can run code: convert it to safetensors where you trust it" if pickles else ""
            raise ModelError(f"{path}: there is no such file{why}")
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: is not a readable safetensors file: {error}") from None
    return tensors


def _from_foreign(foreign: Tensors, family: Family, config: ModelConfig, folder: Path) -> tuple[Tensors, ModelConfig]:
    """The tensors under our names, and the description with the tie between embedding and head as the file has it."""
    foreign = {name: tensor for name, tensor in foreign.items() if not any(re.fullmatch(p, name) for p in family.ignored)}
    known = {rule.theirs for rule in _expand(family.rules, config)}
    foreign = {name if name in known or family.prefix + name not in known else family.prefix + name: t for name, t in foreign.items()}
    embedding, head = (_theirs(family, ours) for ours in ("embedding.tokens.weight", "head.output.weight"))
    if config.head.tied and head in foreign:
        if embedding not in foreign:
            foreign[embedding] = foreign[head]
        if torch.equal(foreign[embedding], foreign[head]):
            del foreign[head]
        else:  # the configuration says tied, the file holds two different matrices: what was trained is the file
            config = replace_tied(config, tied=False)
    shapes = {name: parameter.shape for name, parameter in _on_meta(config).state_dict().items()}
    tensors: Tensors = {}
    for rule in _expand(family.rules, config):
        if rule.theirs not in foreign:
            continue
        tensor = foreign.pop(rule.theirs)
        tensor = tensor.t().contiguous() if rule.transposed else tensor
        rows = [shapes[name][0] for name in rule.ours if name in shapes]
        whole = len(rows) == len(rule.ours) and tensor.dim() > 0 and sum(rows) == len(tensor)
        if len(rule.ours) == 1:
            tensors[rule.ours[0]] = tensor
        elif whole:
            tensors |= dict(zip(rule.ours, tensor.split(rows), strict=True))
        else:
            raise ModelError(f"{folder}: {rule.theirs} has shape {tuple(tensor.shape)}, which does not split into {rows} rows")
    return tensors | foreign, config  # what is left over is unexpected, and reported with the rest


def _fill(config: ModelConfig, tensors: Tensors, folder: Path) -> Transformer:
    """The model with these weights; ModelError lists every missing, unexpected and misshapen tensor."""
    model = _on_meta(config)
    shapes = {name: parameter.shape for name, parameter in model.state_dict().items()}
    problems = [f"missing: {name} {tuple(shape)}" for name, shape in shapes.items() if name not in tensors]
    problems += [f"unexpected: {name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if name not in shapes]
    problems += [
        f"misshapen: {name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise ModelError(f"{folder}: the weights do not fit config.json:\n  " + "\n  ".join(problems))
    model.load_state_dict({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, assign=True)
    return model.requires_grad_().eval()


def _on_meta(config: ModelConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(config)


# ---------------------------------------------------------------------------------------------------------------- writing


def save_model(
    folder: Path,
    config: ModelConfig,
    tensors: Tensors,
    tokenizer: Tokenizer | None,
    *,
    family: str | None = None,
    special_ids: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json, generation_config.json, model.safetensors (or shards), the tokenizer's files and tfkit.json into a folder.

    `tensors` are the parameters under our names; `family` is the one to prefer where several can express the model; `facts` go into
    tfkit.json, which says what config.json cannot.
    """
    from huggingface_hub import save_torch_state_dict

    found = family_of(config, prefer=family)
    ids = dict(special_ids or {}) or _special_ids(tokenizer)
    head = {"architectures": [found.architecture], "model_type": found.name} if found else {"architectures": ["Transformer"]}
    body = found.to_hf(config) if found else {"model_type": OWN_TYPE, "config": config.model_dump(mode="json")}
    _write_json(folder / "config.json", {**head, **body, **{name: ids.get(name) for name in _IDS}, "torch_dtype": "float32"})
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    _write_json(folder / "tfkit.json", {"schema_version": 1, "model": config.model_dump(mode="json", include=_EXPRESSED), **(facts or {})})
    foreign = _to_foreign(tensors, found, config) if found else tensors
    whole = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in foreign.items()}
    save_torch_state_dict(whole, folder, metadata={"format": "pt"})
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)


def family_of(config: ModelConfig, prefer: str | None = None) -> Family | None:
    """A family whose Hugging Face configuration says all that this description says; None if there is none."""
    families = sorted(FAMILIES.values(), key=lambda family: family.name != prefer)
    return next((family for family in families if _expresses(family, config)), None)


def _expresses(family: Family, config: ModelConfig) -> bool:
    try:
        again = ModelConfig.model_validate(family.from_hf(family.to_hf(config)))
    except ValueError:  # a width that the family's layout cannot hold
        return False
    return again.model_dump(exclude=_EXPRESSED) == config.model_dump(exclude=_EXPRESSED)


def _to_foreign(tensors: Tensors, family: Family, config: ModelConfig) -> Tensors:
    foreign: Tensors = {}
    for rule in _expand(family.rules, config):
        if not all(name in tensors for name in rule.ours):
            continue  # a bias or a head that this model has not
        tensor = torch.cat([tensors[name] for name in rule.ours]) if len(rule.ours) > 1 else tensors[rule.ours[0]]
        foreign[rule.theirs] = tensor.t().contiguous() if rule.transposed else tensor
    return foreign


def _expand(rules: tuple[Rule, ...], config: ModelConfig) -> Iterator[Rule]:
    """The rules with every layer's number put in."""
    for rule in rules:
        if "{i}" not in rule.theirs:
            yield rule
            continue
        for layer in range(config.decoder_layers):
            yield replace(rule, theirs=rule.theirs.format(i=layer), ours=tuple(name.format(i=layer) for name in rule.ours))


def _theirs(family: Family, ours: str) -> str:
    return next(rule.theirs for rule in family.rules if rule.ours == (ours,))


def replace_tied(config: ModelConfig, *, tied: bool) -> ModelConfig:
    """The same model with, or without, the output matrix tied to the embedding."""
    return config.model_copy(update={"head": config.head.model_copy(update={"tied": tied})})


def _special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    found = {name: getattr(tokenizer, name.replace("_token", "")) for name in _IDS} if tokenizer else {}
    return {name: value for name, value in found.items() if value is not None}


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
