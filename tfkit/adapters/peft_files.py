r"""The file adapter_model.safetensors of the `peft` library: updates, and modules trained in full, by the names of a Hugging Face class.

Where the class fuses several of tfkit's matrices, such as GPT-2's c_attn = q | k | v, the fused matrix gets one update. With updates
B_q A_q and B_v A_v of rank r, on q and v only,

    | B_q  0  |   | A_q |     | B_q A_q |
    |  0   0  | * | A_v |  =  |    0    |       of rank 2 r: the A's are stacked, each B has rows and columns of its own
    |  0  B_v |               | B_v A_v |

and since peft divides alpha by the total rank, 2 r, the file's alpha is 2 alpha. A and B are (rank, in) and (out, rank) even if the
matrix itself is stored as (in, out), as in GPT-2, where peft's `fan_in_fan_out` is set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tfkit.adapters.lora import A, B
from tfkit.adapters.peft_config import PeftConfig, how_to_merge_in_peft
from tfkit.errors import ModelError
from tfkit.hub.find import unread_format
from tfkit.hub.names import apart, by_head, rules_of
from tfkit.hub.weights import Weight, read_weights
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import parameter_shapes
from tfkit.run.safetensors_header import read_header
from tfkit.run.verified import find_named

NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_EMBEDDING = ".lora_embedding_"  # in the names of an embedding's factors, which are not supported
_TOKENS = "embedding.tokens.weight"
_WHOLE_HEADS = ("classifier", "score")  # heads for classes or tags; modules_to_save names such a module itself, not a module within it
_FLOATS = ("F32", "F16", "BF16", "F64")
_MAX_LISTED = 20  # the most problems that an error message lists


@dataclass(frozen=True)
class PeftTensors:
    """The tensors of adapter_model.safetensors, and the facts that adapter_config.json needs about them and their modules."""

    tensors: dict[str, Tensor]
    ranks: dict[str, int]  # the rank of each update, by the name of its module
    saved: list[str]  # the modules that are trained in full
    modules: list[str]  # all modules of Hugging Face's class that have parameters
    transposed: bool  # whether the matrices with an update are stored as (in, out)


def to_peft(tensors: Mapping[str, Tensor], family: str, config: ModelConfig) -> PeftTensors:
    """Convert LoRA updates, and parameters trained in full, from tfkit's names and layout to those of the family's Hugging Face class."""
    shapes, rules = parameter_shapes(config), rules_of(family, config)
    updates = {name.removesuffix(f".{A}") for name in tensors if name.endswith(f".{A}")}
    converted: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    saved: dict[str, None] = {}
    transposed = False
    for rule in rules:
        module, _, part = rule.theirs.rpartition(".")
        owners = [name.removesuffix(".weight") for name in rule.ours]
        if updated := [name for name in owners if name in updates and part == "weight"]:
            rows = {name: shapes[f"{name}.weight"][0] for name in owners}
            a = torch.cat([tensors[f"{name}.{A}"] for name in updated])  # (sum of ranks, in)
            converted[f"{_PREFIX}{module}{_A}"] = a
            b = _stack_factors({name: tensors[f"{name}.{B}"] for name in updated}, rows)
            converted[f"{_PREFIX}{module}{_B}"] = by_head(b, rule, config)
            ranks[module] = len(a)
            transposed = transposed or rule.transposed
        elif len(rule.ours) == 1 and rule.ours[0] in tensors:  # a head's parameter, which is never fused
            converted[f"{_PREFIX}{rule.theirs}"] = tensors[rule.ours[0]]
            saved[next((whole for whole in _WHOLE_HEADS if module.startswith(f"{whole}.")), module)] = None
    modules = list(dict.fromkeys(rule.theirs.rpartition(".")[0] for rule in rules))
    return PeftTensors(converted, ranks, list(saved), modules, transposed)


def _stack_factors(factors: Mapping[str, Tensor], rows: Mapping[str, int]) -> Tensor:
    """Return the B of a fused matrix, (sum of `rows`, sum of ranks): the B of each part has the rows of this part, and its own columns."""
    width = sum(factor.shape[1] for factor in factors.values())
    stacked = next(iter(factors.values())).new_zeros(sum(rows.values()), width)
    row = column = 0
    for name, count in rows.items():
        if name in factors:
            rank = factors[name].shape[1]
            stacked[row : row + count, column : column + rank] = factors[name]
            column += rank
        row += count
    return stacked


@dataclass(frozen=True)
class Updates:
    """The content of an adapter's file, under tfkit's names."""

    factors: dict[str, tuple[float, Tensor, Tensor]]  # scale, B and A: their product is added to the base's weight
    replaced: dict[str, Tensor]  # parameters trained in full, which replace the base's

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, Tensor], prefix: str = "") -> None:
        """Update the parameters in place, except those on the meta device. `prefix` + a parameter's key is its name in the model."""
        for name, parameter in parameters.items():
            if parameter.is_meta:
                continue
            if prefix + name in self.factors:
                scale, b, a = self.factors[prefix + name]
                parameter.add_(scale * (b @ a))
            if prefix + name in self.replaced:
                parameter.copy_(self.replaced[prefix + name])


def find_tensors(folder: Path) -> dict[str, Weight]:
    """Return the tensors' headers in adapter_model.safetensors, by Hugging Face name. Raise ModelError if that is missing or damaged."""
    path = find_named(folder, NAME)
    if path is None:
        pickles = sorted(path for path in folder.iterdir() if unread_format(path))
        raise ModelError(unread_format(pickles[0]) if pickles else f"{folder / NAME}: there is no such file; copy the folder again")
    return {name.removeprefix(_PREFIX): Weight(path, name, stored) for name, stored in read_header(path).items()}


def read_updates(folder: Path, peft: PeftConfig, family: str, config: ModelConfig) -> Updates:
    """Read a folder's updates for a model of this config. Raise ModelError, naming up to 20 tensors, if any do not fit the model."""
    weights, shapes = find_tensors(folder), parameter_shapes(config)
    rules = {rule.theirs: rule for rule in rules_of(family, config)}
    if any(_EMBEDDING in name for name in weights):
        raise ModelError(f"{folder / NAME}: updates of embeddings are not supported; merge them with peft, and load the result")
    prefix = _missing_prefix(weights, rules)
    weights = {prefix + name: weight for name, weight in weights.items()}
    updated = {name.removesuffix(_A) for name in weights if name.endswith(_A)} & {n.removesuffix(_B) for n in weights if n.endswith(_B)}
    if config.tied and not peft.keeps_ties:
        whole = [name for name, weight in weights.items() if weight.stored.shape == shapes[_TOKENS] and not name.endswith((_A, _B))]
        if untied := [name for name in whole if name not in rules or rules[name].ours == (_TOKENS,)]:
            raise ModelError(
                f"{folder / NAME}: {', '.join(untied)}: trained in full, so that input and output no longer share a matrix as they do in "
                f"the base; merge the adapter with peft, and load the result: {how_to_merge_in_peft(folder, config)}"
            )
    problems = [f"mistyped: {name} {weight.stored.dtype}" for name, weight in weights.items() if weight.stored.dtype not in _FLOATS]
    for name, weight in weights.items():
        module = name.removesuffix(_A).removesuffix(_B)
        rule = rules.get(f"{module}.weight" if module in updated else name)
        if rule is None or (module != name and module not in updated):
            problems.append(f"unexpected: {name} {weight.stored.shape}")
            continue
        rows, rest = sum(shapes[ours][0] for ours in rule.ours), shapes[rule.ours[0]][1:]
        shape: tuple[int, ...] = (rows, *rest)
        if module in updated:
            if len(rest) != 1 or rule.row:
                problems.append(f"no matrix: {name}")
                continue
            rank = max((1, *weights[module + _A].stored.shape[:1]))  # 1 for a scalar, whose shape is empty
            shape = (rank, *rest) if name.endswith(_A) else (rows, rank)
        elif rule.transposed or rule.row:
            shape = shape[::-1] if rule.transposed else (1, *shape)
        if weight.stored.shape != shape:
            problems.append(f"misshapen: {name} {weight.stored.shape} instead of {shape}")
    if problems or not updated:
        more = [f"and {len(problems) - _MAX_LISTED:,} more"] if len(problems) > _MAX_LISTED else []
        lines = "\n  ".join([*problems[:_MAX_LISTED], *more]) or "it holds no update"
        raise ModelError(f"{folder / NAME}: does not fit its base:\n  {lines}")
    tensors = {name: tensor.float() for name, tensor in read_weights(weights).items()}
    factors: dict[str, tuple[float, Tensor, Tensor]] = {}
    for module in sorted(updated):
        a, b = tensors.pop(module + _A), tensors.pop(module + _B)
        rule = rules[f"{module}.weight"]
        ours = rule.ours
        parts = apart(b, rule, config).split([shapes[name][0] for name in ours])
        factors |= {name: (peft.scale(module, len(a)), part, a) for name, part in zip(ours, parts, strict=True)}
    replaced: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        rule = rules[name]
        tensor = apart(tensor.t() if rule.transposed else tensor[0] if rule.row else tensor, rule, config)
        replaced |= dict(zip(rule.ours, tensor.split([shapes[ours][0] for ours in rule.ours]), strict=True))
    return Updates(factors, replaced)


def _missing_prefix(weights: Mapping[str, Weight], rules: Mapping[str, object]) -> str:
    """Return the prefix, such as "bert.", that names have in the base's class with a head, if the adapter's names lack it; else ""."""
    first = next((name.removesuffix(_A) for name in weights if name.endswith(_A)), None)
    if first is None or f"{first}.weight" in rules:
        return ""
    prefixes = {name.removesuffix(f"{first}.weight") for name in rules if name.endswith(f".{first}.weight")}
    return prefixes.pop() if len(prefixes) == 1 else ""
