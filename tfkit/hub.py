"""Hugging Face model folders <-> Transformer. The only place where a family's rules and tensors meet.

Loading is strict both ways: every foreign tensor is mapped or known to carry nothing, every parameter of ours is filled. safetensors
and JSON only: a pickle can run code, so it is refused.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.families import FAMILIES
from tfkit.families.rules import Family, Rule, UnsupportedError
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.tokenizer import Backend, Tokenizer, load_tokenizer, save_tokenizer

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
    def tokenizer(self) -> Backend | None:
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
    if family is not None:
        foreign, config = _settle_names(foreign, family, config)
    _check_fit(foreign, _expected(family, config), folder)
    tensors = _from_foreign(foreign, family, config) if family else foreign
    model = _fill(config, {name: tensor.to(dtype) for name, tensor in tensors.items()})
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
    path = folder / "config.json"
    kind = hf.get("model_type")
    if not isinstance(kind, str) or (kind != OWN_TYPE and kind not in FAMILIES):
        raise ModelError(f"{path}: model_type {kind!r} is not one that tfkit can load ({', '.join(FAMILIES)})")
    family = FAMILIES.get(kind)
    try:
        config = _validated(family.from_hf(dict(hf)) if family else hf["config"], path)
    except KeyError as missing:
        raise ModelError(f"{path}: the field {missing} is missing") from None
    except UnsupportedError as error:
        raise ModelError(f"{path}: {error}") from None
    ours = folder / "tfkit.json"
    if family and ours.is_file():
        said = _read_json(ours).get("model", {})
        if not isinstance(said, dict) or not said.keys() <= _EXPRESSED:
            raise ModelError(f"{ours}: model must hold {' and '.join(sorted(_EXPRESSED))}, and nothing that config.json says")
        config = _validated(config.model_dump() | said, ours)
    return family, config


def _validated(values: Any, path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{path}: {what}") from None


def _download(name: str) -> Path:
    """A snapshot of a hub repository: configuration, safetensors and tokenizer only, never code or pickles.

    With TFKIT_OFFLINE=1, as with HF_HUB_OFFLINE=1, only one that was downloaded before.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    offline = os.environ.get("TFKIT_OFFLINE", "0") not in ("", "0")
    files = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files, local_files_only=offline))
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
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{index}: weight_map does not map each tensor to a file")
        names = sorted(set(shards.values()))
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


def _settle_names(foreign: Tensors, family: Family, config: ModelConfig) -> tuple[Tensors, ModelConfig]:
    """The tensors that carry something, under the family's full names, and the description with the tie as the file has it."""
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
    return foreign, config


def _expected(family: Family | None, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors that a file of this model holds, with their shapes."""
    shapes = {name: tuple(parameter.shape) for name, parameter in _on_meta(config).state_dict().items()}
    if family is None:
        return shapes
    expected = {}
    for rule in _expand(family.rules, config):
        if all(name in shapes for name in rule.ours):
            rows = sum(shapes[name][0] for name in rule.ours)
            shape = (rows, *shapes[rule.ours[0]][1:])
            expected[rule.theirs] = shape[::-1] if rule.transposed else shape
    return expected


def _check_fit(tensors: Tensors, expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise ModelError, listing every missing, unexpected and misshapen tensor under the name that it has in the file."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected: {name} {shape}" for name, shape in found.items() if name not in expected]
    problems += [
        f"misshapen: {name} {found[name]} instead of {shape}" for name, shape in expected.items() if found.get(name, shape) != shape
    ]
    if problems:
        raise ModelError(f"{folder}: the weights do not fit config.json:\n  " + "\n  ".join(problems))


def _from_foreign(foreign: Tensors, family: Family, config: ModelConfig) -> Tensors:
    """The tensors of a file that fits, under our names."""
    shapes = _on_meta(config).state_dict()
    tensors: Tensors = {}
    for rule in _expand(family.rules, config):
        if rule.theirs in foreign:
            tensor = foreign[rule.theirs].t() if rule.transposed else foreign[rule.theirs]
            tensors |= dict(zip(rule.ours, tensor.split([len(shapes[name]) for name in rule.ours]), strict=True))
    return tensors


def _fill(config: ModelConfig, tensors: Tensors) -> Transformer:
    """The model with these weights."""
    model = _on_meta(config)
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
