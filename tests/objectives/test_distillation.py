"""Distillation against DistilBERT's own losses with transformers' models, and against Gemma 2's; what a student begins with."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_examples import ENCODER, TWO_LAYERS, made_stream, model, tokenizer
from tiny_files import flip
from tiny_writers import DECODERS
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from tfkit.data import FramedRows, Loader, PackedRows
from tfkit.errors import ModelError
from tfkit.families import FAMILIES
from tfkit.hub import load, save_model
from tfkit.hub.names import to_foreign
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import ModelContext
from tfkit.objectives.distillation import Distillation, copy_layers, open_teacher
from tfkit.objectives.masked_lm import MaskedLM
from tfkit.objectives.objective import IGNORED, Batch, weighted_loss
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.tokenizer import Tokenizer

TOKENIZER = tokenizer()
SIZES: dict[str, Any] = {"vocab_size": 300, "max_position_embeddings": 24, "initializer_range": 0.3}
BERT = BertConfig(**SIZES, hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=52)
DISTILBERT = DistilBertConfig(**SIZES, dim=24, n_layers=2, n_heads=3, hidden_dim=52, dropout=0.0)
DISTILBERTS = {"temperature": 2.0, "teacher_weight": 5.0, "text_weight": 2.0, "cosine_weight": 1.0}
DECODER: dict[str, Any] = TWO_LAYERS | DECODERS["gemma2"]
STUDENT = {name: value for name, value in ENCODER.items() if name != "embedding"} | {"embedding": {"norm": True}}


def distillation(teacher: Transformer, of: str = "masked_lm", **section: Any) -> Distillation:
    made = DistillationSection.model_validate({"kind": "distillation", "teacher": "made", "of": {"kind": of}, **section})
    taught = CausalLM("apart") if made.of.kind == "causal_lm" else MaskedLM(made.of, TOKENIZER, seed=1)
    return Distillation(made, taught, Companion("teacher", teacher.eval().requires_grad_(False), "made", "0" * 64))


def whole_step(objective: Distillation) -> Batch:
    """Return a step of rows whose documents are apart, with unequal numbers of targets."""
    pairs = [(made_stream(TOKENIZER, 60), 1.0)]
    rows = FramedRows(pairs, 24, 1, objective.base.frame) if isinstance(objective.base, MaskedLM) else PackedRows(pairs, 24, 1)
    [batch] = Loader(rows, objective.collate, 8, 8).step(0)
    return batch


def ragged_batch() -> Batch:
    """Return masked rows of unequal lengths, one of them without a target."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(5, 300, (5, 20), generator=generator)
    real = torch.arange(20) < torch.tensor([20, 7, 13, 1, 18])[:, None]
    hidden = (torch.rand(5, 20, generator=generator) < 0.3) & real
    hidden[1] = False
    return Batch(torch.where(hidden, 4, ids), torch.where(hidden, ids, IGNORED), padding_mask=real)


# --------------------------------------------------------------------------------------------------------------- DistilBERT


def theirs(student: Any, teacher: Any, batch: Batch, *, masked_only: bool) -> Tensor:
    """Return the loss of DistilBERT's script distiller.py with its models and loss classes: temperature 2, and weights of 5, 2 and 1."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.padding_mask}
    with torch.no_grad():
        taught = teacher(**inputs, output_hidden_states=True)
    found = student(**inputs, output_hidden_states=True)
    asked, real = (batch.labels != IGNORED) if masked_only else batch.padding_mask, batch.padding_mask
    divergence = torch.nn.KLDivLoss(reduction="batchmean")
    ce = divergence(F.log_softmax(found.logits[asked] / 2, dim=-1), F.softmax(taught.logits[asked] / 2, dim=-1)) * 2**2
    mlm = torch.nn.CrossEntropyLoss(ignore_index=IGNORED)(found.logits.flatten(0, 1), batch.labels.flatten())
    ours, others = found.hidden_states[-1][real], taught.hidden_states[-1][real]
    cosine = torch.nn.CosineEmbeddingLoss(reduction="mean")(ours, others, torch.ones(len(ours)))
    return 5 * ce + 2 * mlm + cosine


@pytest.mark.parametrize("masked_only", [False, True])
def test_the_loss_and_its_gradient_are_those_of_distilberts_script(tmp_path: Path, masked_only: bool) -> None:
    torch.manual_seed(5)
    student, teacher = DistilBertForMaskedLM(DISTILBERT).eval(), BertForMaskedLM(BERT).eval()
    student.save_pretrained(tmp_path / "student")
    teacher.save_pretrained(tmp_path / "teacher")
    ours = load(tmp_path / "student").model
    objective = distillation(load(tmp_path / "teacher").model, masked_only=masked_only, **DISTILBERTS)
    batch = ragged_batch()
    counts, sums = objective.counts(batch), objective.loss(ours, batch)
    assert counts == {"teacher": counts["mlm"] if masked_only else 59, "cosine": 59, "mlm": int((batch.labels != IGNORED).sum())}
    loss = sum(weight * sums[term] / counts[term] for term, weight in objective.terms.items())
    expected = theirs(student, teacher, batch, masked_only=masked_only)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-6)
    loss.backward()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    wanted = {name: parameter.grad for name, parameter in student.named_parameters()}
    torch.testing.assert_close(dict(to_foreign(gradients, FAMILIES["distilbert"], ours.config)), wanted, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is None for parameter in objective.teacher.model.parameters())


def test_a_weight_of_0_switches_a_term_off() -> None:
    """Its forward pass, its count and its sum are left out, so that a step without any masked token is still possible."""
    batch = ragged_batch()
    for terms in ({"teacher": 5.0}, {"cosine": 1.0}, {"teacher": 5.0, "mlm": 2.0}):
        weights = {f"{name}_weight": terms.get(term, 0.0) for name, term in (("teacher", "teacher"), ("text", "mlm"), ("cosine", "cosine"))}
        objective = distillation(model(ENCODER), **weights)
        assert dict(objective.terms) == terms
        assert objective.counts(batch).keys() == objective.loss(model(STUDENT), batch).keys() == terms.keys()


def test_the_student_is_judged_without_its_teacher() -> None:
    objective, student = distillation(model(ENCODER), **DISTILBERTS), model(STUDENT).eval()
    batch = whole_step(objective)
    with torch.no_grad():
        sums = objective.measure(student, batch)
        assert sums == objective.base.measure(student, batch)
    assert objective.metrics(sums)["loss"] == weighted_loss({"mlm": 1.0}, sums)


# ------------------------------------------------------------------------------------------------------------------ Gemma 2


def test_the_gradient_is_that_of_cross_entropy_with_the_teachers_probabilities() -> None:
    """Gemma 2's loss (section 3.2) exceeds the divergence by the teacher's entropy; the logits are capped, and documents apart."""
    teacher, student = model(DECODER | {"dim": 36, "decoder_layers": 3}), model(DECODER)
    objective = distillation(teacher, "causal_lm")
    batch = whole_step(objective)
    targets = batch.labels != IGNORED
    assert int((~targets).sum()) > 0
    assert objective.counts(batch) == {"teacher": int(targets.sum())}
    with torch.no_grad():
        taught = teacher(**batch.inputs()).logits[targets].softmax(-1)
    log_probs = student(**batch.inputs()).logits[targets].log_softmax(-1)
    crossed, entropy = -(taught * log_probs).sum(), -(taught * taught.log()).sum()
    loss = objective.loss(student, batch)["teacher"]
    torch.testing.assert_close(loss + entropy, crossed, atol=1e-3, rtol=1e-6)
    ours, expected = (torch.autograd.grad(one, [*student.parameters()]) for one in (loss, crossed))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


# ----------------------------------------------------------------------------------------------- what a student begins with


def test_a_distilbert_begins_with_every_other_layer_of_its_bert() -> None:
    """Every tensor is compared by its name in the files, as DistilBERT's extract_distilbert.py maps them."""
    student, teacher = model(STUDENT), model(ENCODER | {"encoder_layers": 4, "head": ENCODER["head"] | {"next_sentence": True}})
    copy_layers(student, teacher, [0, 3])
    theirs, bert = (
        dict(to_foreign(one.state_dict(), FAMILIES[name], one.config)) for one, name in ((student, "distilbert"), (teacher, "bert"))
    )
    parts = {"attention.q_lin": "attention.self.query", "attention.k_lin": "attention.self.key", "attention.v_lin": "attention.self.value"}
    parts |= {"attention.out_lin": "attention.output.dense", "sa_layer_norm": "attention.output.LayerNorm"}
    parts |= {"ffn.lin1": "intermediate.dense", "ffn.lin2": "output.dense", "output_layer_norm": "output.LayerNorm"}
    pairs = {"distilbert.embeddings.LayerNorm": "bert.embeddings.LayerNorm"}
    pairs |= {"vocab_transform": "cls.predictions.transform.dense", "vocab_layer_norm": "cls.predictions.transform.LayerNorm"}
    for ours, layer in ((0, 0), (1, 3)):
        pairs |= {f"distilbert.transformer.layer.{ours}.{one}": f"bert.encoder.layer.{layer}.{other}" for one, other in parts.items()}
    names = {f"{one}.{kind}": f"{other}.{kind}" for one, other in pairs.items() for kind in ("weight", "bias")}
    names["vocab_projector.bias"] = "cls.predictions.bias"
    for name in ("word", "position"):
        names[f"distilbert.embeddings.{name}_embeddings.weight"] = f"bert.embeddings.{name}_embeddings.weight"
    assert {name: tensor.numpy().tobytes() for name, tensor in theirs.items()} == {
        name: bert[other].numpy().tobytes() for name, other in names.items()
    }
    assert not torch.equal(bert["bert.encoder.layer.0.output.dense.weight"], bert["bert.encoder.layer.3.output.dense.weight"])


def test_a_decoder_begins_with_a_part_of_its_teacher() -> None:
    student, teacher = model(DECODER), model(DECODER | {"decoder_layers": 5, "init": {"std": 0.2}})
    copy_layers(student, teacher, [4, 1])
    for name, parameter in student.named_parameters():
        whose = name.replace("blocks.0.", "blocks.4.") if "blocks.0." in name else name
        assert torch.equal(parameter, teacher.get_parameter(whose)), name


UP = "encoder.blocks.1.mlp.op.up_proj.weight"


@pytest.mark.parametrize(
    ("changes", "layers", "said"),
    [
        ({}, [0, 4], "copy_layers: the teacher has no layer 4, only 0 to 3"),
        ({}, [0], "copy_layers: 1 layers for a student of 2"),
        ({"dim": 12}, [0, 1], "head_dim: the student's is 4, the teacher's 8"),
        ({"num_heads": 6}, [0, 1], "num_heads: the student's is 6, the teacher's 3"),
        ({"norm": {"kind": "layer", "placement": "pre"}}, [0, 1], "norm.placement: the student's is pre, the teacher's post"),
        ({"hidden_dim": 40}, [0, 1], f"{UP} (40, 24): the teacher's {UP} is (96, 24)"),
        ({"context_length": 12}, [0, 1], "embedding.positions.weight (12, 24): the teacher's embedding.positions.weight is (24, 24)"),
        ({"head": {"kind": "masked_lm", "tied": False}}, [0, 1], "head.output.weight (300, 24): the teacher has no head.output.weight"),
    ],
)
def test_layers_that_do_not_fit_are_listed(changes: dict[str, Any], layers: list[int], said: str) -> None:
    student, before = model(STUDENT | changes), model(STUDENT | changes)
    with pytest.raises(ModelError, match=r"objective.copy_layers: the student cannot start with the teacher's weights:\n  ") as error:
        copy_layers(student, model(ENCODER | {"encoder_layers": 4}), layers)
    assert f"\n  {said}" in str(error.value)
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), before.parameters(), strict=True))


# -------------------------------------------------------------------------------------------------------- who teaches whom


def saved(folder: Path, values: dict[str, Any], codec: Tokenizer | None = TOKENIZER) -> Path:
    folder.mkdir()
    save_model(folder, ModelConfig.model_validate(values), model(values).state_dict(), codec)
    return folder


def opened(folder: Path, rows: int | None = None, **section: Any) -> Companion:
    """Return the teacher in a folder, for a student that reads rows of this many tokens."""
    made = DistillationSection.model_validate({"kind": "distillation", "teacher": str(folder), "of": {"kind": "masked_lm"}, **section})
    context = ModelContext(ModelConfig.model_validate(STUDENT), TOKENIZER, (), 1, Path("student"), sequence_length=rows)
    return open_teacher(made, context)


def test_a_teacher_is_frozen_judges_and_has_a_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "teacher", ENCODER)
    teacher = opened(folder, cosine_weight=1.0)
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert teacher.parent() == {"role": "teacher", "path": str(folder), "run_id": None, "sha256": teacher.sha256}
    (folder / "README.md").write_text("A card may change.", encoding="utf-8")
    assert opened(folder).sha256 == teacher.sha256
    flip(folder / "model.safetensors")
    assert opened(folder).sha256 != teacher.sha256


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (DECODER, "it has a decoder, the student an encoder"),
        (ENCODER | {"head": {"kind": "tags", "count": 3}}, "its head is of kind tags, which gives no distribution over the vocabulary"),
        (ENCODER | {"vocab_size": 304}, "its vocab_size is 304, the student's 300: set model.vocab_size"),
        (ENCODER | {"context_length": 20}, "its context_length is 20, and the student reads rows of 24 tokens"),
        (ENCODER | {"dim": 30}, "its dim is 30, the student's 24: make them equal, or set objective.cosine_weight to 0"),
    ],
)
def test_a_model_that_cannot_teach_is_refused_with_the_reason(tmp_path: Path, teacher: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=r"cannot teach this model:\n  ") as error:
        opened(saved(tmp_path / "teacher", teacher), cosine_weight=1.0)
    assert f"\n  {said}" in str(error.value)


def test_a_teacher_whose_context_is_shorter_teaches_rows_that_it_holds(tmp_path: Path) -> None:
    folder = saved(tmp_path / "teacher", ENCODER | {"context_length": 20})
    assert opened(folder, rows=20).model.config.context_length == 20
    with pytest.raises(ModelError, match="and the student reads rows of 21 tokens"):
        opened(folder, rows=21)


def test_a_teacher_reads_the_same_tokens(tmp_path: Path) -> None:
    other = tokenizer(lowercase=False)
    ours, theirs = (codec.fingerprint()[:12] for codec in (TOKENIZER, other))
    with pytest.raises(ModelError, match=rf"its tokenizer \(.* {theirs}\) is not the student's \(.* {ours}\): set tokenizer.path to"):
        opened(saved(tmp_path / "other", ENCODER, other))
    with pytest.raises(ModelError, match=r"it has no tokenizer.json, so the tokens of its ids are not known"):
        opened(saved(tmp_path / "none", ENCODER, None))
