"""The protocol of an objective: batches, target counts, losses (sums, never means), and the properties that tfkit/engine reads.

For each term of its loss, an objective returns the sum over a micro-batch and the number of targets. A training step adds up these sums and
numbers over all micro-batches and ranks and divides once, so that eight rows give the same step in one micro-batch of 8 or in four of 2.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
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
    from tfkit.objectives.rollouts import PretrainingMix, Rollouts

ReferenceUse = Literal["none", "once", "throughout"]
IGNORED = -100  # the label of a position that has no loss


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows. A tensor that is None is not passed to the model."""

    input_ids: Tensor  # (B, T)
    labels: Tensor  # (B, T); (B, T') for an encoder-decoder; (B,) or (B, n) if whole rows have labels. IGNORED where there is no loss
    document_ids: Tensor | None = None  # (B, T): a token attends only to tokens with the same id; None: every row is one document
    padding_mask: Tensor | None = None  # (B, T), True = real token; None: no padding
    segment_ids: Tensor | None = None  # (B, T): 0 in the first text of a pair, 1 in the second; None: no pairs
    decoder_input_ids: Tensor | None = None  # (B, T'); None: the model is not an encoder-decoder
    decoder_padding_mask: Tensor | None = None  # (B, T'), True = real token; None: no padding
    # Tensors that the objective reads and the model does not: (B, ...) or, say, one value per pair. A batch with extras is never cropped.
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    is_pretraining: bool = False  # whether the rows are from data.pretraining; a step reads them after its rows of data.train

    def to(self, device: torch.device) -> "Batch":
        """Return this batch on a device."""
        ahead = device.type == "cuda"  # elsewhere an asynchronous copy could be read before it has finished
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=ahead) for name, tensor in self._present()}
        return replace(self, **moved, extras={name: tensor.to(device, non_blocking=ahead) for name, tensor in self.extras.items()})

    def pinned(self) -> "Batch":
        """Return this batch in pinned memory, from which copies to a GPU are asynchronous."""
        moved: dict[str, Any] = {name: tensor.pin_memory() for name, tensor in self._present()}
        return replace(self, **moved, extras={name: tensor.pin_memory() for name, tensor in self.extras.items()})

    def inputs(self) -> dict[str, Tensor]:
        """Return the tensors that the Transformer reads, by the names of its arguments: all but `labels` and `extras`."""
        return {name: tensor for name, tensor in self._present() if name != "labels"}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor with its name: those of the fields in their order, then `extras` by name."""
        yield from self._present()
        yield from sorted(self.extras.items())

    @property
    def tokens(self) -> int:
        """The number of real tokens, including those of an encoder-decoder's decoder."""
        source = self.input_ids.numel() if self.padding_mask is None else int(self.padding_mask.sum())
        return source + self.decoder_tokens

    @property
    def decoder_tokens(self) -> int:
        """The number of real tokens that the decoder of an encoder-decoder reads; 0 for other models."""
        if self.decoder_input_ids is None:
            return 0
        mask = self.decoder_padding_mask
        return self.decoder_input_ids.numel() if mask is None else int(mask.sum())

    def cropped(self, length: int) -> "Batch":
        """Return a batch of the first `length` positions of the first row. All tensors of this batch must be (B, T)."""
        cut: dict[str, Any] = {name: tensor[:1, :length] for name, tensor in self.tensors()}
        return Batch(**cut)

    def _present(self) -> Iterator[tuple[str, Tensor]]:
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor


_TENSORS = tuple(one.name for one in fields(Batch) if one.name not in ("extras", "is_pretraining"))


@dataclass(frozen=True)
class Observation:
    """A number that a training step reports but does not minimize, such as the fraction of clipped tokens.

    With a `term` of the loss, `Objective.loss` returns the observation's sum over the micro-batch, and the step divides it by the number of
    the term's targets; without a term, `loss` returns the maximum over the micro-batch. `loss` may leave the observation out.
    """

    term: str | None = None


class Sum(NamedTuple):
    """A sum over targets, and the number of these targets."""

    total: float
    targets: int

    def __add__(self, other: object) -> "Sum":
        """Return the sum over both sets of targets."""
        assert isinstance(other, Sum)
        return Sum(self.total + other.total, self.targets + other.targets)

    @property
    def mean(self) -> float:
        """The mean over targets; NaN without targets."""
        return self.total / self.targets if self.targets else math.nan


class Objective(Protocol):
    """A training objective. Its section in a recipe names the columns and models that it reads. Methods with a default are optional."""

    terms: Mapping[str, float]  # the weight of each term of the loss, by name
    observed: Mapping[str, Observation] = {}  # the numbers that `loss` returns in addition to the terms, by name
    feedback: "Feedback | None" = None  # how a policy and a judge make the examples from prompts; None: the rows are the examples
    reference_use: ReferenceUse = "none"  # when outputs of the initial model are read: never, once for each row, or throughout the training
    draws_dropout: bool = True  # whether training steps use dropout; False where its noise would distort a comparison of outputs
    has_facts: bool = False  # whether `facts` has entries for each checkpoint's tfkit.json
    reads_second_output: bool = False  # whether `loss` reads `extra_logits`, the second output of the model's head
    reads_sentences: bool = False  # whether a stored text must record where its sentences begin
    # The text that a step reads after its rows of data.train, in batches with `is_pretraining`; None: there is no such text.
    # If there is one, `loss` returns 0 for each term that has no targets in a batch.
    pretraining: "PretrainingMix | None" = None
    # Whether the texts of rows may begin with the special token that the tokenizer puts before each text; False: for tokenizers that
    # would then put a second one before it, such a text is an error.
    reads_special_tokens: bool = False

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> Rows:
        """Return the rows of `stored`, sources with their weights. Raises DataError if a source has too little text for one row."""

    def collate(self, rows: Any) -> Batch:
        """Return the batch of rows, on the CPU."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of targets of each term, without a forward pass."""

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return, by name, the sum of each term's losses (a scalar with a gradient) and the observations."""

    def measure(self, model: Any, batch: Batch) -> dict[str, Sum]:
        """Return the sums of an evaluation: the loss of each term by its name, and other sums, such as the number of right answers."""

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return the metrics, such as `loss`, from the sums over all batches."""

    def vocabulary_states(self, batch: Batch) -> int:
        """Return the number of hidden states that `loss` multiplies by the output matrix of a vocabulary head."""
        return int((batch.labels != IGNORED).sum())

    def companion_states(self, batch: Batch) -> int:
        """Return the number of hidden states that the head of a model in `companions` reads, whatever the kind of head."""
        return int((batch.labels != IGNORED).sum())

    @property
    def evaluation_objective(self) -> "Objective":
        """The objective that evaluations use: this one by default; that of a distillation, for example, needs no teacher."""
        return self

    @property
    def labelled(self) -> "LabelledObjective | None":
        """This objective if each row of the data is one example; None if rows are cut from a stream of text."""
        return None

    @property
    def rollouts(self) -> "Rollouts | None":
        """How responses are sampled if the rows are prompts; None if the rows themselves are trained on."""
        return None

    @property
    def companions(self) -> "Sequence[Companion]":
        """The models that training needs in addition to the trained one, such as a teacher."""
        return ()

    @property
    def recorded_companions(self) -> "Sequence[Companion]":
        """The companions that a run records: those that its steps use, and those that make its examples (`feedback`)."""
        return [*self.companions, *(self.feedback.companions if self.feedback is not None else ())]

    def prompts(self, texts: Sequence[str]) -> tuple[list[str], bool]:
        """Return the prompts that ask the model to answer these texts, and whether special tokens are spelled out in them."""
        return list(texts), False

    def prepare(self, train: "Sequence[tuple[Stored, float]]") -> None:
        """Compute statistics of the training rows that the loss needs, such as class frequencies; `train`: sources with their weights."""
        return

    def initialize(self, model: Any, new: Sequence[str] | None) -> None:
        """Change the weights before the first step. `new`: the parameters that the initial checkpoint lacks; None: no checkpoint."""
        return

    def facts(self, model: Any, stored: Sequence[Stored], batch_size: int) -> dict[str, Any]:
        """Return the objective's entries in a checkpoint's tfkit.json; `model` has the checkpoint's weights, `stored` the training rows."""
        raise AssertionError("the objective has no facts")

    def check_metric(self, name: str | None) -> None:
        """Raise UsageError if no evaluation with the objective's labels can report the metric `name`, which selects the best checkpoint."""
        return

    def notes(self, stored: Sequence[Stored]) -> list[str]:
        """Return remarks about the training data, for the user."""
        return []

    def warnings(self, stored: Sequence[Stored], tokenizer: Tokenizer, length: int, *, is_finished: bool) -> list[str]:
        """Return warnings about training data that is valid, but probably not intended. `length`: the number of tokens in a row.

        `is_finished`: the tokenizer was not trained for this run.
        """
        return []

    def legend(self) -> list[str]:
        """Return explanations of the objective's marks in the output of `tfkit inspect`."""
        return []


class Distillable(Objective, Protocol):
    """An objective that can be distilled: it predicts a distribution over the vocabulary at each position."""

    def losses(self, model: Any, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Return what `loss` returns, given the output of the model for the batch."""

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each term's losses."""
        return self.losses(model, model(**batch.inputs()), batch)


def weighted_loss(terms: Mapping[str, float], sums: Mapping[str, Sum]) -> float:
    """Return the weighted sum of the mean losses of the terms."""
    return sum(weight * sums[term].mean for term, weight in terms.items())


def perplexity(loss: float) -> float:
    """Return the perplexity of a loss in nats; infinity for a loss above 700."""
    return math.exp(loss) if not loss > 700 else math.inf
