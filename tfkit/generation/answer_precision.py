"""The precision of models in inference: float32, bf16, or weights of 8 bits (int8). By default ("auto") it is bf16 if that is faster and
changes few of the model's answers to sample texts, else float32.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tfkit.errors import MachineError, UsageError, argument
from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.hub import Loaded
from tfkit.model.answering_linear import has_int8, to_int8
from tfkit.model.config import ClassesHeadConfig
from tfkit.model.padding import pad, real_tokens
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.text_pairs import encode_texts

Precision = Literal["auto", "float32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_FEW_PARAMETERS = 10_000_000  # a model with fewer parameters is not large (`is_large`)
_MOST_CHANGED = 0.1  # the largest fraction of the answers to the sample texts that bf16 may change
_SAMPLE = (
    "The cat sat on the mat and looked out of the window.",
    "On Monday morning the two ministers met in Berlin to discuss the new treaty.",
    "Water boils at 100 degrees Celsius; at a lower pressure it boils earlier.",
    "def mean(values): return sum(values) / len(values)",
    "I ordered this lamp in March, and it broke after three days. Never again!",
    "Question: What is the largest planet of the solar system? Answer: Jupiter.",
    "Once upon a time there was a king who had three daughters and no son.",
    "The committee has not yet decided whether the road will be built this year.",
)


class OpenedModel(NamedTuple):
    """A loaded model and its precision, and the result of comparing bf16 with float32, if they were compared."""

    loaded: Loaded
    precision: Literal["float32", "bf16", "int8"]
    changed: int = 0  # how many answers to the sample texts are different in bf16 and float32
    answers: int = 0  # the number of answers that were compared; 0: no comparison

    def described(self) -> str:
        """Return which precision was chosen, and why, for messages; empty if bf16 was not compared with float32."""
        if not self.answers:
            return ""
        compared = f"{self.changed:,} of {self.answers:,} answers to a sample of texts are not those of float32"
        if self.precision == "float32":
            return f"computing in float32, since in bf16 {compared}"
        return f"computing in bf16, in which {compared}; {argument('precision', 'float32')} is exact"


def open_in_precision(
    load: Callable[[torch.dtype], Loaded], wanted: Precision, device: torch.device, agree: Callable[[bool], bool], *, has_bf16: bool
) -> OpenedModel:
    """Load a model in the `wanted` precision. `has_bf16`: whether the device multiplies matrices in bf16. `agree(x)`: whether x is true on
    all ranks.

    auto is bf16 if that is faster and changes at most one in ten of the model's answers to the sample texts: the likeliest token at each
    position, the class of each text, the tag of each token, or the two ends of the span in each text; else it is float32. Raises UsageError
    for an unknown precision, MachineError for int8 on a device without products of 8 bits, ModelError for a tokenizer that does not belong
    to the model.
    """
    if wanted not in PRECISIONS:
        raise UsageError(f"{argument('precision', wanted)}: give one of {', '.join(PRECISIONS)}")
    if wanted == "int8" and not has_int8(device):
        raise MachineError(
            f"{argument('precision', 'int8')}: needs a processor with products of 8 bits (VNNI or AMX); take bf16 or float32"
        )
    if wanted == "bf16":
        return OpenedModel(load(torch.bfloat16), "bf16")
    loaded = load(torch.float32)
    if wanted == "auto" and agree(has_bf16 and _gains_by_bf16(loaded)):
        exact = _answers(loaded)
        loaded.model.to(torch.bfloat16)
        changed = int((_answers(loaded) != exact).sum())
        if agree(len(exact) > 0 and changed <= _MOST_CHANGED * len(exact)):
            return OpenedModel(loaded, "bf16", changed, len(exact))
        return OpenedModel(load(torch.float32), "float32", changed, len(exact))
    if wanted == "int8":
        to_int8(loaded.model)
        return OpenedModel(loaded, "int8")
    return OpenedModel(loaded, "float32")


def is_large(model: Transformer) -> bool:
    """Whether the model has so many weights that reading them from memory takes most of the time of a forward pass over one short text."""
    return sum(parameter.numel() for parameter in model.parameters()) >= _FEW_PARAMETERS


def _gains_by_bf16(loaded: Loaded) -> bool:
    """Whether the model has a tokenizer, is large (so bf16 saves time), and gives tokens or labels, not numbers, which bf16 would round."""
    head = loaded.config.head
    gives_numbers = head.kind == "none" or (isinstance(head, ClassesHeadConfig) and head.count == 1)
    return loaded.codec is not None and is_large(loaded.model) and not gives_numbers


def _answers(loaded: Loaded) -> Tensor:
    """Return the indices of the likeliest tokens, classes, tags or ends of spans for the sample texts, in one tensor (N,); N is 0 if the
    tokenizer gives no token for these texts.
    """
    model, codec = loaded.model, loaded.codec
    assert codec is not None
    encoded = [text.ids for text in encode_texts(codec, [(text, None) for text in _SAMPLE], loaded.config.context_length)]
    rows = [ids for ids in encoded if ids]
    if not rows:
        return torch.empty(0)
    check_vocabulary(rows, loaded.config.vocab_size)
    device = next(model.parameters()).device
    ids, real = pad(rows, codec.pad_id or 0).to(device), real_tokens(rows).to(device)  # (B, T)
    both = model.encoder is not None and model.decoder is not None
    with inference(model):
        output: Output = (
            model(ids, padding_mask=real, decoder_input_ids=ids, decoder_padding_mask=real) if both else model(ids, padding_mask=real)
        )
        match loaded.config.head.kind:
            case "classes":
                return output.logits.argmax(-1)  # (B,)
            case "spans":
                return output.logits.argmax(1).flatten()  # (B * 2,)
            case _:
                return output.logits[real].argmax(-1)  # (real tokens,)
