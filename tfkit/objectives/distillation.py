"""Distillation: a student learns the full output distribution of a larger model, its teacher, at each token of real text.

DistilBERT (Sanh et al. 2019, arXiv 1910.01108) adds up three losses: the KL divergence of the student's distribution from the teacher's,
both softened by a temperature; the masked language modelling loss; and the cosine distance of the last hidden states. Gemma 2 (arXiv
2408.00118, section 3.2) has one: the cross-entropy against the teacher's probabilities, whose gradient equals that of the divergence.
`open_teacher` loads the teacher and checks that it fits the student, whose layers may start as copies of the teacher's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.data import Rows
from tfkit.errors import ModelError
from tfkit.model.config import LanguageModelHeadConfig, MaskedLanguageModelHeadConfig, ModelConfig
from tfkit.model.head import VocabularyHead, vocabulary_head
from tfkit.model.transformer import Transformer, on_meta
from tfkit.objectives.companion import Companion, open_companion, refuse_misfit
from tfkit.objectives.context import ModelContext, RowOrder, Stored
from tfkit.objectives.objective import IGNORED, Batch, Distillable, Objective, Sum
from tfkit.objectives.vocabulary_loss import make_logits, overwrite, pieces, vocabulary_loss
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.tokenizer import Tokenizer

_PIECE = 2**19  # the most logits of each model in one softmax on a CPU: 2 MiB in float32
# The settings that must be equal for `copy_layers`, as must the shapes of tensors, so that copied tensors have the same meaning.
_ARCHITECTURE: dict[str, Any] = {
    **dict.fromkeys(("num_heads", "num_kv_heads", "head_dim", "position", "norm", "mlp"), True),
    "embedding": {"scale"},
    "attention": {"scale"},
}
_MAX_PROBLEMS = 12  # the most problems that an error message lists


class Distillation(Objective):
    """The losses of `base`, the objective in the section's `of`, and the distance from the teacher's outputs for the batch. Evaluations
    use `base` alone, so that the student's held-out loss can be compared with that of any other model.
    """

    def __init__(self, section: DistillationSection, base: Distillable, teacher: Companion):
        self.section, self.base, self.teacher = section, base, teacher
        self.reads_sentences = base.reads_sentences
        self.reads_second_output = base.reads_second_output and bool(section.text_weight)
        weights = {"teacher": section.teacher_weight, "cosine": section.cosine_weight}
        weights |= {term: section.text_weight * weight for term, weight in base.terms.items()}
        self.terms: Mapping[str, float] = {term: weight for term, weight in weights.items() if weight}

    @property
    def evaluation_objective(self) -> Objective:
        """The base objective."""
        return self.base

    @property
    def companions(self) -> Sequence[Companion]:
        """The teacher."""
        return (self.teacher,)

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> Rows:
        """Return the rows of the base objective."""
        return self.base.open_rows(stored, order)

    def initialize(self, model: Transformer, new: Sequence[str] | None) -> None:
        """Copy the teacher's weights, if the section sets `copy_layers`."""
        if self.section.copy_layers is not None:
            copy_layers(model, self.teacher.model, self.section.copy_layers)

    def warnings(self, stored: Sequence[Stored], tokenizer: Tokenizer, length: int, *, is_finished: bool) -> list[str]:
        """Return the warnings of the base objective."""
        return self.base.warnings(stored, tokenizer, length, is_finished=is_finished)

    def legend(self) -> list[str]:
        """Return a sentence for `tfkit inspect` if the loss against the teacher also covers tokens that are not masked; else none."""
        covers_all = self.section.of.kind == "masked_lm" and not self.section.masked_only
        return ["the loss against the teacher covers every token but padding, marked or not"] if covers_all else []

    def collate(self, rows: Any) -> Batch:
        """Return the batch of the base objective."""
        return self.base.collate(rows)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the numbers of positions with a loss against the teacher and of real tokens (for the cosine), and the counts of `base`."""
        counts = {"teacher": int(self._teacher_mask(batch).sum()), "cosine": int(_real(batch).sum()), **self.base.counts(batch)}
        return {term: counts[term] for term in self.terms}

    def vocabulary_states(self, batch: Batch) -> int:
        """Return how many hidden states need logits for the losses of `base`, if used, plus how many for the loss against the teacher."""
        base_states = self.base.vocabulary_states(batch) if self.section.text_weight else 0
        return base_states + self.companion_states(batch)

    def companion_states(self, batch: Batch) -> int:
        """Return the number of hidden states for which the teacher computes logits."""
        return int(self._teacher_mask(batch).sum()) if self.section.teacher_weight else 0

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each term: T^2 KL(teacher || student) in nats (T: temperature), 1 - cosine, and the losses of `base`."""
        student = model(**batch.inputs())
        with torch.no_grad():
            teacher = self.teacher.model(**batch.inputs())
        losses = self.base.losses(model, student, batch) if self.section.text_weight else {}
        if self.section.teacher_weight:
            mask = self._teacher_mask(batch)
            head, teacher_head = vocabulary_head(model.head), vocabulary_head(self.teacher.model.head)
            temperature = self.section.temperature
            # T^2 keeps the gradient's scale at any temperature (Hinton et al. 2015, arXiv 1503.02531, section 2).
            divergences = token_divergences(head, student.hidden[mask], teacher_head, teacher.hidden[mask], temperature)
            losses["teacher"] = temperature**2 * divergences.sum()
        if self.section.cosine_weight:
            real = _real(batch)
            cosines = F.cosine_similarity(student.hidden[real].float(), teacher.hidden[real].float(), dim=-1)
            losses["cosine"] = (1 - cosines).sum()
        return {term: losses[term] for term in self.terms}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the sums of the base objective."""
        return self.base.measure(model, batch)

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return the metrics of the base objective."""
        return self.base.metrics(sums)

    def _teacher_mask(self, batch: Batch) -> Tensor:
        """Return the mask of the positions with the loss against the teacher, (B, T): for a masked language model all real tokens (as in
        DistilBERT's script) or, with `masked_only`, the masked ones; for a causal language model the positions with a target.
        """
        targets_only = self.section.of.kind == "causal_lm" or self.section.masked_only
        return batch.labels != IGNORED if targets_only else _real(batch)


def _real(batch: Batch) -> Tensor:
    """Return the mask of real tokens, (B, T)."""
    return torch.ones_like(batch.input_ids, dtype=torch.bool) if batch.padding_mask is None else batch.padding_mask


def token_divergences(
    head: VocabularyHead, hidden: Tensor, teacher: VocabularyHead, teacher_hidden: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return KL(teacher || student) for N positions, both softened by the temperature: hidden (N, D) and (N, D') -> (N,), in nats.

    It is the sum over the vocabulary of p_t (log p_t - log p_s), where p = softmax(logits / temperature), in float32 (float64 for float64).
    Only the student gets a gradient. Positions are computed in blocks, in which the logits of both models fit vocabulary_loss.LOGITS_BYTES.
    """
    with torch.no_grad():
        teacher_hidden = teacher.prepare(teacher_hidden)
    row_bytes = len(teacher.weight) * teacher_hidden.element_size()
    loss = partial(_divergences, cap=head.softcap, teacher=teacher, temperature=temperature)
    return vocabulary_loss(head, hidden, loss, teacher_hidden, target_bytes=row_bytes)


@torch.no_grad()
def _divergences(
    logits: Tensor, teacher_hidden: Tensor, *, gradient: bool, cap: float | None, teacher: VocabularyHead, temperature: float
) -> Tensor:
    """Compute the losses of a block: (n, V), (n, D') -> (n,); with `gradient`, overwrite the logits by their gradient."""
    teacher_logits = make_logits(teacher_hidden, teacher.weight, teacher.bias, teacher.softcap)
    losses = []
    for piece, teacher_piece in pieces(logits, teacher_logits, most=_PIECE):
        student, target = _soften(piece, temperature), _soften(teacher_piece, temperature)
        probabilities = target.exp()
        losses.append((probabilities * (target - student)).sum(-1))
        if gradient:
            # Subtract before rounding to the dtype of the logits: small differences of likely tokens keep their digits.
            overwrite(piece, student.exp_().sub_(probabilities).div_(temperature), cap)
    return torch.cat(losses)


def _soften(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(logits / temperature), in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).div(temperature).log_softmax(-1)


def open_teacher(section: DistillationSection, context: ModelContext) -> Companion:
    """Load the teacher of a student. Raises ModelError, with all reasons, if it cannot teach the student."""
    teacher = open_companion(section, "teacher", defer_blocks=context.defer_blocks)
    refuse_misfit(teacher, "teach this model", _misfits(teacher, section, context))
    if section.copy_layers is not None:
        copied_tensors(on_meta(context.config), teacher.model, section.copy_layers)  # so that a misfit raises before the data are tokenized
    return teacher


@torch.no_grad()
def copy_layers(student: Transformer, teacher: Transformer, layers: Sequence[int]) -> None:
    """Copy the teacher's weights: those of layer `layers[i]` to layer i of the student, all others to the parameter of the same name.

    If the teacher's blocks are loaded on demand (`fill_block`), so are the student's, each from the file of the block that it copies.
    """
    parameters = dict(student.named_parameters())
    for name, tensor in copied_tensors(student, teacher, layers).items():
        parameters[name].copy_(tensor)
    if (fill := teacher.fill_block) is not None:
        student.fill_block = lambda prefix, block: fill(_teacher_name(prefix, layers), block)


def copied_tensors(student: Transformer, teacher: Transformer, layers: Sequence[int]) -> dict[str, Tensor]:
    """Return the teacher's tensor for each parameter of the student. Raises ModelError, with all problems, if the models do not fit."""
    parameters = dict(teacher.named_parameters())
    ours, theirs = _architecture(student.config), _architecture(teacher.config)
    problems = [
        f"{name}: the student's is {ours.get(name)}, the teacher's {theirs.get(name)}"
        for name in ours | theirs
        if ours.get(name) != theirs.get(name)
    ]
    count = _layers(teacher.config)
    problems += [f"copy_layers: the teacher has no layer {layer}, only 0 to {count - 1}" for layer in sorted({*layers}) if layer >= count]
    if len(layers) != _layers(student.config):
        problems.append(f"copy_layers: {len(layers)} layers for a student of {_layers(student.config)}")
    if not problems:
        names = {name: _teacher_name(name, layers) for name, _ in student.named_parameters()}
        problems = _mismatches(dict(student.named_parameters()), parameters, names)
    if problems:
        more = [f"and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
        lines = "\n  ".join([*problems[:_MAX_PROBLEMS], *more])
        raise ModelError(f"objective.copy_layers: the student cannot start with the teacher's weights:\n  {lines}")
    return {name: parameters[source] for name, source in names.items()}


def _mismatches(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    problems = []
    for ours, theirs in names.items():
        shape = tuple(student[ours].shape)
        if theirs not in teacher:
            problems.append(f"{ours} {shape}: the teacher has no {theirs}")
        elif tuple(teacher[theirs].shape) != shape:
            problems.append(f"{ours} {shape}: the teacher's {theirs} is {tuple(teacher[theirs].shape)}")
    return problems


def _teacher_name(name: str, layers: Sequence[int]) -> str:
    """Return the teacher's name of a student's parameter: encoder.blocks.2.norm.weight -> encoder.blocks.4.norm.weight if layers[2] = 4."""
    stack, blocks, inner = name.partition(".blocks.")
    if not blocks:
        return name
    layer, _, rest = inner.partition(".")
    return f"{stack}.blocks.{layers[int(layer)]}.{rest}"


def _architecture(config: ModelConfig) -> dict[str, object]:
    """Return the settings that _ARCHITECTURE lists, by their names in a recipe."""
    document = config.model_dump(include=_ARCHITECTURE)
    return {
        (f"{name}.{inner}" if inner else name): setting
        for name, value in document.items()
        for inner, setting in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _layers(config: ModelConfig) -> int:
    return config.encoder_layers + config.decoder_layers


def _stacks(config: ModelConfig) -> str:
    return " and ".join(f"{article} {name}" for article, name in (("an", "encoder"), ("a", "decoder")) if getattr(config, f"{name}_layers"))


def _misfits(teacher: Companion, section: DistillationSection, context: ModelContext) -> list[str]:
    """Return the reasons why a model cannot teach the student; empty if it can."""
    student, tokenizer = context.config, context.tokenizer
    config, codec = teacher.model.config, teacher.tokenizer
    reasons = []
    if _stacks(config) != _stacks(student):
        reasons.append(f"it has {_stacks(config)}, the student {_stacks(student)}")
    if not isinstance(config.head, LanguageModelHeadConfig | MaskedLanguageModelHeadConfig):
        reasons.append(f"its head is of kind {config.head.kind}, which gives no distribution over the vocabulary")
    if codec is None:
        reasons.append("it has no tokenizer.json, so the tokens of its ids are not known")
    elif codec.fingerprint() != tokenizer.fingerprint():
        theirs, ours = (f"{each.size:,} entries, fingerprint {each.fingerprint()[:12]}" for each in (codec, tokenizer))
        reasons.append(f"its tokenizer ({theirs}) is not the student's ({ours}): set tokenizer.path to {section.teacher}")
    if config.vocab_size != student.vocab_size:
        reasons.append(f"its vocab_size is {config.vocab_size:,}, the student's {student.vocab_size:,}: set model.vocab_size")
    if config.context_length < context.row_length and config.position.kind != "relative":
        reasons.append(f"its context_length is {config.context_length:,}, and the student reads rows of {context.row_length:,} tokens")
    if section.cosine_weight and config.dim != student.dim:
        reasons.append(f"its dim is {config.dim}, the student's {student.dim}: make them equal, or set objective.cosine_weight to 0")
    return reasons
