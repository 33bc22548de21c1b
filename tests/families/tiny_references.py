"""Tiny models of transformers with numbers that bite: three heads a group, an odd vocabulary, weights large enough to show a mistake.

The models are in files of their own, cases_*.py, each with a dictionary CASES; here they are collected.
"""

import copy
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tfkit.families import MODEL_TYPES
from tfkit.model.transformer import Output, Transformer

LARGE, SMALL = 0.35, 0.02  # at std 0.02 a wrong gelu changes logits by 1e-6, and a wrong eps by 1e-3
TOLERANCE = 1e-4

IDS = torch.tensor([[(7 * t + 3 * b + 5) % 83 + 3 for t in range(23)] for b in range(2)])  # (2, 23)
LONG = torch.tensor([[(11 * t + 5 * b + 3) % 89 + 3 for t in range(60)] for b in range(2)])  # (2, 60): twelve windows
MASK = torch.ones_like(IDS)
MASK[1, -5:] = 0  # for encoders
TARGETS = IDS[:, :11]  # the input of an encoder-decoder's decoder


@dataclass(frozen=True)
class Case:
    """A class of transformers and its configuration.

    `std`: of the weights, if LARGE would saturate something. `untied`: with an output matrix of its own, if the configuration cannot
    express it (T5 1.1).
    """

    model: type[PreTrainedModel]
    config: PreTrainedConfig
    std: float = LARGE
    untied: bool = False

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The input of transformers' forward: ids for decoders, also a mask for encoders, and the targets for an encoder-decoder."""
        if self.config.is_encoder_decoder:
            return {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": TARGETS}
        return {"input_ids": IDS, "attention_mask": MASK} if self.encodes else {"input_ids": IDS}

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder alone."""
        return MODEL_TYPES[self.config.model_type].stacks[0] and not self.config.is_encoder_decoder

    @property
    def decodes(self) -> bool:
        """Whether it is a decoder alone, with a language model's head."""
        return (
            self.inputs.keys() == {"input_ids"}
            and hasattr(self.model, "generate")
            and "LM" in self.model.__name__.upper().replace("SMOLLM", "")
        )


class Pair(NamedTuple):
    """A model of transformers, ours with its weights, and the name of their case."""

    theirs: PreTrainedModel
    ours: Transformer
    case: str


CASES: dict[str, Case] = {}


def of_each(cases: Iterable[str]) -> pytest.MarkDecorator:
    """Return a mark: the test gets the pair of each case, which is made once for the tests of a module that follow each other."""
    return pytest.mark.parametrize("pair", list(cases), indirect=True)


def named(
    prefix: str, ending: str, settings: Mapping[str, Any], *, config: str = "", std: float = LARGE, untied: bool = False, **changes: Any
) -> Case:
    """Return a case of the class of transformers whose name has these two parts; `config`: the prefix of its configuration's, if another.

    `settings` and `changes` are fields of the configuration.
    """
    configuration = getattr(transformers, f"{config or prefix}Config")(**{**settings, **changes})
    return Case(getattr(transformers, f"{prefix}{ending}"), configuration, std, untied)


def cases_of(
    family: str, prefix: str, settings: Mapping[str, Any], heads: Mapping[str, tuple[str, dict[str, Any]]], std: float = LARGE
) -> dict[str, Case]:
    """Return a case of a family for each head: its name in the case -> the end of the class's name, and further settings."""
    return {f"{family} {head}".strip(): named(prefix, ending, settings, std=std, **more) for head, (ending, more) in heads.items()}


def reference(case: str, std: float | None = None) -> PreTrainedModel:
    """Return a random model: matrices and biases normal, norms around 1 (Gemma's, which are stored minus one, around 0)."""
    config = copy.deepcopy(CASES[case].config)  # which a test may change, such as the implementation of attention
    model = CASES[case].model(config).eval()
    if CASES[case].untied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    generator = torch.Generator().manual_seed(5)
    drawn = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]  # Marian's sinusoids stay
    drawn += [(name, buffer) for name, buffer in model.named_buffers() if name == "final_logits_bias"]
    with torch.no_grad():
        for name, parameter in drawn:
            is_norm = parameter.dim() == 1 and name.endswith("weight") and not config.model_type.startswith("gemma")
            parameter.normal_(1.0 if is_norm else 0.0, std or CASES[case].std, generator=generator)
    return model


def save_reference(folder: Path, case: str, std: float | None = None) -> PreTrainedModel:
    """Save the model into `folder` with transformers itself."""
    model = reference(case, std)
    model.save_pretrained(folder)
    return model


def run(model: Transformer, case: str, **further: Any) -> Output:
    """Run our forward on the case's inputs."""
    inputs = dict(CASES[case].inputs)
    mask = inputs.pop("attention_mask", None)
    return model(**inputs, padding_mask=None if mask is None else mask.bool(), **further)


def real(case: str, tensor: Tensor) -> Tensor:
    """Return the values of (B, T, ...) at real tokens: the others mean nothing, and differ."""
    return tensor[MASK.bool()] if "attention_mask" in CASES[case].inputs and tensor.shape[:2] == MASK.shape else tensor


def logits_of(output: Any) -> Tensor:
    """Return the output of the main head of a class of transformers; of a model without a head, its hidden states."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return next(output[name] for name in ("logits", "prediction_logits", "last_hidden_state") if name in output)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max())


for _path in sorted(Path(__file__).parent.glob("cases_*.py")):
    CASES |= importlib.import_module(_path.stem).CASES
