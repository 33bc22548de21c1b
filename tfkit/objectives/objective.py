"""The protocol of an objective: batches, counts, sums, and what the engine asks beside. A loss is never a mean here.

An objective gives, for each of its terms, the sum of the losses of a micro-batch and how many targets went into it. The step adds both
up over its micro-batches (and, some day, ranks) and divides once, so that 1 x 8, 8 x 1 and 4 x 2 micro-batches are the same step.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from tfkit.data import Rows
from tfkit.objectives.context import RowOrder, Stored
from tfkit.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tfkit.objectives.ai_feedback import Feedback
    from tfkit.objectives.companion import Companion
    from tfkit.objectives.labelled import LabelledObjective
    from tfkit.objectives.pretraining_mix import PretrainingMix
    from tfkit.objectives.rollouts import Rollouts

ReferenceUse = Literal["none", "once", "throughout"]
IGNORED = -100  # the label of a position that has no loss


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows. None: the model is given no such thing."""

    input_ids: Tensor  # (B, T)
    labels: Tensor  # (B, T); (B, T') of an encoder-decoder; (B,) for whole texts. IGNORED where there is no loss
    document_ids: Tensor | None = None  # (B, T): tokens with equal numbers see each other; None: every row is one document
    padding_mask: Tensor | None = None  # (B, T), True = real token; None: all are
    segment_ids: Tensor | None = None  # (B, T): the text of a pair that a token is in
    decoder_input_ids: Tensor | None = None  # (B, T')
    decoder_padding_mask: Tensor | None = None  # (B, T')
    extras: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # (B, ...), for further terms, or for a loss that joins sequences: none is cut then
    is_pretraining: bool = False  # rows of data.pretraining, which a step reads behind its own

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        ahead = device.type == "cuda"  # what CUDA still computes is not waited for; elsewhere a copy under way may be read too early
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=ahead) for name, tensor in self._own()}
        return replace(self, **moved, extras={name: tensor.to(device, non_blocking=ahead) for name, tensor in self.extras.items()})

    def pinned(self) -> "Batch":
        """The same batch in memory from which a GPU copies by itself, while the processor continues."""
        moved: dict[str, Any] = {name: tensor.pin_memory() for name, tensor in self._own()}
        return replace(self, **moved, extras={name: tensor.pin_memory() for name, tensor in self.extras.items()})

    def inputs(self) -> dict[str, Tensor]:
        """The arguments of the Transformer, by name."""
        return {name: tensor for name, tensor in self._own() if name != "labels"}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, by name, in a fixed order."""
        yield from self._own()
        yield from sorted(self.extras.items())

    @property
    def tokens(self) -> int:
        """Real tokens, of both sides of an encoder-decoder."""
        source = self.input_ids.numel() if self.padding_mask is None else int(self.padding_mask.sum())
        return source + self.decoder_tokens

    @property
    def decoder_tokens(self) -> int:
        """Real tokens of the decoder's side of an encoder-decoder; 0 of others."""
        if self.decoder_input_ids is None:
            return 0
        mask = self.decoder_padding_mask
        return self.decoder_input_ids.numel() if mask is None else int(mask.sum())

    def corner(self, length: int) -> "Batch":
        """The first row, as far as `length`, of a batch whose tensors are all (B, T)."""
        cut: dict[str, Any] = {name: tensor[:1, :length] for name, tensor in self.tensors()}
        return Batch(**cut)

    def _own(self) -> Iterator[tuple[str, Tensor]]:
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor


_TENSORS = (
    *("input_ids", "labels", "document_ids", "padding_mask", "segment_ids"),
    *("decoder_input_ids", "decoder_padding_mask"),
)


@dataclass(frozen=True)
class Observation:
    """A number of a step that is reported and not trained on, such as the entropy of a policy.

    `loss` returns its sum over the micro-batch under its name, which `term` divides by the count of that term; or, without a `term`, its
    maximum. A micro-batch may lack it.
    """

    term: str | None = None


class Sum(NamedTuple):
    """Something added up over rows, and over how many targets."""

    total: float
    targets: int

    def __add__(self, other: object) -> "Sum":
        """Both together."""
        assert isinstance(other, Sum)
        return Sum(self.total + other.total, self.targets + other.targets)

    @property
    def mean(self) -> float:
        """A target's share; NaN of none."""
        return self.total / self.targets if self.targets else math.nan


class Objective(Protocol):
    """A way to train. Its section of the recipe says which rows it reads, and which models it is for.

    What the engine asks of every objective is here; those that have nothing to say of it inherit the default.
    """

    terms: Mapping[str, float]  # the weight of each part of the loss
    observed: Mapping[str, Observation] = MappingProxyType({})  # what `loss` returns beside the terms, by names of its own

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> Rows:
        """The rows of weighted sources. Raises DataError if a source has too little for one."""

    def collate(self, rows: Any) -> Batch:
        """Rows to a batch on the CPU."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """The number of targets of each term, without a forward."""

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """The sum of each term's losses, a scalar with a gradient; and the observations."""

    def measure(self, model: Any, batch: Batch) -> dict[str, Sum]:
        """The sums of an evaluation: each term's loss under its name, and others, such as the right answers."""

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """The metrics of the sums of all batches, under the field's names; `loss` is among them."""

    def vocabulary_states(self, batch: Batch) -> int:
        """The number of hidden states that `loss` multiplies by the output matrix, where the head is one over the vocabulary."""
        return int((batch.labels != IGNORED).sum())

    def companion_states(self, batch: Batch) -> int:
        """The same of the head of a companion, which may be of another kind."""
        return int((batch.labels != IGNORED).sum())

    @property
    def reads_second_output(self) -> bool:
        """Whether `loss` reads the second output of the model's head."""
        return False

    @property
    def judged_by(self) -> "Objective":
        """The objective of the evaluations: of a distillation that of the student."""
        return self

    @property
    def labelled(self) -> "LabelledObjective | None":
        """This objective where each row is an example with an answer; None where rows are cut from a stream of text."""
        return None

    @property
    def rollouts(self) -> "Rollouts | None":
        """How responses are sampled where its rows are prompts; None where they are trained on as they are."""
        return None

    @property
    def companions(self) -> "Sequence[Companion]":
        """The models that it needs beside the one that is trained."""
        return ()

    @property
    def feedback(self) -> "Feedback | None":
        """How its examples are made of prompts by a policy and a judge; None where rows are what it learns from."""
        return None

    @property
    def reference_use(self) -> ReferenceUse:
        """Whether its loss reads what the model of the first step says: of each row once, before that step, or in every step."""
        return "none"

    @property
    def draws_dropout(self) -> bool:
        """Whether a training step draws dropout; not where the loss compares the log-probabilities of two forwards."""
        return True

    @property
    def pretraining(self) -> "PretrainingMix | None":
        """The text that a step reads behind its own rows, in batches that are marked; None: none. A term that a batch lacks is 0 there."""
        return None

    @property
    def reads_sentences(self) -> bool:
        """Whether its streams of text must know where sentences begin."""
        return False

    @property
    def reads_special_tokens(self) -> bool:
        """Whether it handles special tokens that a text spells out; else no text may begin with the one that begins all."""
        return False

    @property
    def end_ids(self) -> Sequence[int]:
        """The ids that end what the model writes, beside the tokenizer's own."""
        return ()

    def prompts(self, texts: Sequence[str]) -> tuple[list[str], bool]:
        """The texts that the model continues to answer these, and whether their special tokens are spelled out."""
        return list(texts), False

    def prepare(self, stored: "Sequence[Stored]") -> None:
        """Take from the rows to train on what the loss needs, such as how frequent each class is."""
        return

    def initialize(self, model: Any, new: Sequence[str] | None) -> None:
        """Change the weights before the first step; `new`: the parameters that the checkpoint of the start lacks, None: all are random."""
        return

    @property
    def initializes_blocks(self) -> bool:
        """Whether `initialize` changes weights of blocks, which must be there then."""
        return False

    @property
    def has_facts(self) -> bool:
        """Whether it has `facts` of each checkpoint."""
        return False

    def facts(self, model: Any, stored: Sequence[Stored], batch_size: int) -> dict[str, Any]:
        """Return what tfkit.json says of a checkpoint beside the model; `model`: with the checkpoint's weights, `stored`: to train on."""
        raise AssertionError("it has none")

    def check_metric(self, name: str | None) -> None:
        """Raise UsageError if an evaluation of these labels does not report the metric of the best checkpoint."""
        return

    def notes(self, stored: Sequence[Stored]) -> list[str]:
        """Sentences about the training data for the user."""
        return []

    def warnings(self, stored: Sequence[Stored], tokenizer: Tokenizer, length: int, *, is_finished: bool) -> list[str]:
        """Sentences about training data that are no error, but hardly meant; `length`: of a row.

        `is_finished`: the tokenizer was not trained for this run.
        """
        return []

    def legend(self) -> list[str]:
        """Sentences about its marks for a reader of `tfkit inspect`."""
        return []


def weighted_loss(terms: Mapping[str, float], sums: Mapping[str, Sum]) -> float:
    """The loss that the terms make together."""
    return sum(weight * sums[term].mean for term, weight in terms.items())


def perplexity(loss: float) -> float:
    """Of a loss in nats; infinite beyond float64."""
    return math.exp(loss) if not loss > 700 else math.inf
