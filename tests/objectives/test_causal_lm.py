"""Next-token prediction: which positions have a target, which tokens they attend to, and that the loss is a sum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.data.order.packing import PackedBatch
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import IGNORED

END = 9  # ends documents; with GPT-2's tokenizer it begins them too
IDS = [[3, 4, END, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7]]
DOCUMENTS = [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]]
_ = IGNORED


def rows(ids: list[list[int]] = IDS, documents: list[list[int]] = DOCUMENTS) -> PackedBatch:
    return PackedBatch(np.array(ids, dtype=np.int64), np.array(documents, dtype=np.int64))


def tiny_model() -> Transformer:
    values = {"vocab_size": 11, "context_length": 16, "decoder_layers": 1, "dim": 8, "num_heads": 2, "position": {"kind": "rotary"}}
    parts = {"norm": {"kind": "rms"}, "mlp": {"activation": "silu", "gated": True}, "head": {"tied": True}, "init": {"std": 0.35}}
    return build(ModelConfig.model_validate(values | parts), seed=1)


def test_the_first_token_of_a_document_is_no_target_of_the_last() -> None:
    packed = rows()
    batch = CausalLM().collate(packed)
    assert batch.input_ids.tolist() == [row[:-1] for row in IDS]
    assert batch.labels.tolist() == [[4, END, _, 6, 7, 8], IDS[1][1:]]
    assert batch.document_ids.tolist() == [row[:-1] for row in DOCUMENTS]
    assert {tensor.dtype for tensor in (batch.input_ids, batch.labels, batch.document_ids)} == {torch.int64}
    assert packed.ids.tolist() == IDS  # left as they are


def test_a_separator_that_begins_the_next_document_ends_this_one() -> None:
    """GPT-2's END both ends and begins documents: in END 3 4 | END 5 6 | END, END is the target after 4, and 5 after END."""
    ids, documents = [[END, 3, 4, END, 5, 6, END]], [[0, 0, 0, 1, 1, 1, 2]]
    batch = CausalLM(separator_id=END).collate(rows(ids, documents))
    assert batch.labels.tolist() == [[3, 4, END, 5, 6, END]]
    assert CausalLM().collate(rows(ids, documents)).labels.tolist() == [[3, 4, _, 5, 6, _]]
    assert batch.document_ids.tolist() == [[0, 0, 0, 1, 1, 1]]


def test_joined_documents_see_and_predict_each_other() -> None:
    batch = CausalLM("joined").collate(rows())
    assert batch.labels.tolist() == [row[1:] for row in IDS]
    assert batch.document_ids is None


@pytest.mark.parametrize("documents", [[[0] * 7], [[0] * 6 + [1]]])
def test_rows_of_one_document_need_no_mask(documents: list[list[int]]) -> None:
    """If another document begins only with the last target, no input token belongs to it."""
    batch = CausalLM().collate(rows(IDS[:1], documents))
    assert batch.document_ids is None
    assert (batch.labels[0, -1] == IGNORED) == (documents[0][-1] == 1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=7, max_size=7), min_size=1, max_size=4), st.booleans())
def test_counts_are_the_labels(drawn: list[list[tuple[int, bool]]], separated: bool) -> None:
    ids = [[token for token, _begins in row] for row in drawn]
    documents = np.cumsum([[begins for _token, begins in row] for row in drawn], axis=1)
    objective = CausalLM(separator_id=END if separated else None)
    batch = objective.collate(PackedBatch(np.array(ids), documents - documents[:, :1]))
    inside = documents[:, 1:] == documents[:, :-1]
    targets = inside | ((np.array(ids)[:, 1:] == END) & separated)
    assert objective.counts(batch) == {"lm": targets.sum()}
    assert ((batch.labels != IGNORED).numpy() == targets).all()
    assert objective.counts(batch).keys() == objective.terms.keys()


@pytest.mark.parametrize("documents", ["apart", "joined"])
def test_loss_and_gradient_are_those_of_the_sum_of_cross_entropies(documents: str) -> None:
    objective, model = CausalLM(documents), tiny_model()
    batch, parameters = objective.collate(rows()), list(model.parameters())
    logits = model(batch.input_ids, document_ids=batch.document_ids).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum", ignore_index=IGNORED)
    loss = objective.loss(model, batch)["lm"]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters))


def test_a_batch_without_a_target_costs_nothing_and_breaks_nothing() -> None:
    objective, model = CausalLM(), tiny_model()
    batch = objective.collate(rows([[1, 2, 3]], [[0, 1, 2]]))
    assert objective.counts(batch) == {"lm": 0}
    loss = objective.loss(model, batch)["lm"]
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in model.parameters())


def test_a_batch_goes_to_a_device_whole() -> None:
    moved = CausalLM().collate(rows()).to(torch.device("meta"))
    assert {tensor.device.type for tensor in (moved.input_ids, moved.labels, moved.document_ids)} == {"meta"}
    assert CausalLM("joined").collate(rows()).to(torch.device("meta")).document_ids is None
