"""Who sees whom: causality, packed documents, padding, the cache. Each property holds to the last bit where the mask makes it exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONTEXT, MODELS, VOCABULARY, random_ids, tiny_model
from torch import Tensor

from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.masks import Mask, Positions

BUILT = {name: tiny_model(name) for name in MODELS}
ROUNDING = 2e-5  # of float32 logits of size 10, in another order of summation

models = pytest.mark.parametrize("name", MODELS)
few = settings(max_examples=15, deadline=None, derandomize=True)
lengths_of_documents = st.lists(st.integers(1, 7), min_size=2, max_size=6).filter(lambda lengths: sum(lengths) <= CONTEXT)


@models
@few
@given(place=st.integers(0, CONTEXT - 1), shift=st.integers(1, VOCABULARY - 1), masked=st.booleans())
@torch.no_grad()
def test_a_token_changes_nothing_before_it(name: str, place: int, shift: int, masked: bool) -> None:
    ids = random_ids(2, CONTEXT)
    changed = ids.clone()
    changed[:, place] = (changed[:, place] + shift) % VOCABULARY
    padding = torch.ones(2, CONTEXT, dtype=torch.bool) if masked else None  # with it, the kernel gets a mask instead of is_causal
    before, after = (BUILT[name](x, padding_mask=padding).hidden for x in (ids, changed))
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])
    assert (before[:, -1] != after[:, -1]).any()  # and reaches the end


@models
@few
@given(lengths=lengths_of_documents)
@torch.no_grad()
def test_a_packed_document_is_as_alone(name: str, lengths: list[int]) -> None:
    """Each row packs its documents in its own way."""
    ids, both = random_ids(2, sum(lengths)), (lengths, lengths[::-1])
    documents = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in both])
    packed = BUILT[name](ids, document_ids=documents).logits
    for row, found in zip(range(2), packed, strict=True):
        alone = [BUILT[name](document[None]).logits[0] for document in ids[row].split(both[row])]
        torch.testing.assert_close(found, torch.cat(alone), atol=ROUNDING, rtol=ROUNDING)


@models
@pytest.mark.parametrize("training", [False, True])
def test_a_packed_document_has_no_gradient_to_its_neighbours(name: str, training: bool) -> None:
    model = tiny_model(name).train(training)
    vectors: list[Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        vectors.append(output.detach().requires_grad_())
        return vectors[0]

    model.embedding.register_forward_hook(keep)
    documents = torch.tensor([[0] * 5 + [1] * 7 + [2] * 4])
    hidden = model(random_ids(1, 16), document_ids=documents).hidden
    hidden[0, 5:12].square().sum().backward()
    gradient = vectors[0].grad
    assert (gradient[0, :5] == 0).all()
    assert (gradient[0, 12:] == 0).all()
    assert (gradient[0, 5:12].abs().amax(dim=1) > 0).all()


@models
@few
@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=4), fill=st.integers(0, VOCABULARY - 1), left=st.booleans())
@torch.no_grad()
def test_a_padded_row_is_as_alone(name: str, lengths: list[int], fill: int, left: bool) -> None:
    rows = [random_ids(1, length, seed=length)[0] for length in lengths]
    width = max(lengths) + 2
    ids = torch.full((len(rows), width), fill)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    places = [slice(width - len(row), width) if left else slice(len(row)) for row in rows]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        ids[i, place], mask[i, place] = row, True
    batch = BUILT[name](ids, padding_mask=mask).logits
    assert batch.isfinite().all()
    for found, row, place in zip(batch, rows, places, strict=True):
        torch.testing.assert_close(found[place], BUILT[name](row[None]).logits[0], atol=ROUNDING, rtol=ROUNDING)


@models
@few
@given(pieces=st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda pieces: sum(pieces) <= CONTEXT), padded=st.integers(0, 3))
@torch.no_grad()
def test_a_cache_gives_the_full_forward(name: str, pieces: list[int], padded: int) -> None:
    model, length = BUILT[name], sum(pieces)
    ids = random_ids(2, length)
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[0, : min(padded, pieces[0] - 1)] = False
    cache = KeyValueCache(model.config, 2, length, torch.float32)
    parts, done = [], 0
    for piece in ids.split(pieces, dim=1):
        done += piece.shape[1]
        parts.append(model(piece, padding_mask=None if mask.all() else mask[:, :done], cache=cache).logits)
        assert cache.length == done
    full = model(ids, padding_mask=mask).logits
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask], full[mask], atol=ROUNDING, rtol=ROUNDING)


@models
def test_a_sequence_longer_than_the_context_is_refused(name: str) -> None:
    model = BUILT[name]
    with pytest.raises(ValueError, match=f"25 tokens do not fit into the model's context of {CONTEXT}"):
        model(random_ids(1, CONTEXT + 1))
    cache = KeyValueCache(model.config, 1, 30, torch.float32)
    with torch.no_grad():
        model(random_ids(1, CONTEXT), cache=cache)
    with pytest.raises(ValueError, match="25 tokens do not fit"):
        model(random_ids(1, 1), cache=cache)


def test_the_masks_that_the_module_draws() -> None:
    cpu = torch.device("cpu")
    assert Mask(Positions(5, 0, cpu, None, None), causal=True).pattern == "causal"
    assert Mask(Positions(5, 0, cpu, None, None), causal=False).pattern == "full"
    assert Mask(Positions(5, 0, cpu, None, None), causal=True, window=5).pattern == "causal"
    assert Mask(Positions(5, 0, cpu, None, None), causal=True, window=4).pattern == "other"
    both_sides = Mask(Positions(4, 0, cpu, None, None), causal=False, window=2)
    assert both_sides.pattern == "other"
    assert both_sides.dense().int().tolist() == [[[[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]]]
    packed = Mask(Positions(5, 0, cpu, None, torch.tensor([[0, 0, 1, 1, 1]])), causal=True)
    padded = Mask(Positions(5, 0, cpu, torch.tensor([[False, False, True, True, True]]), None), causal=True)
    assert packed.pattern == padded.pattern == "other"
    assert packed.dense().int().tolist() == [[[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]]]
    assert padded.dense().int().tolist() == [[[[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]]]
    assert Mask(Positions(1, 7, cpu, None, None), causal=True).pattern == "full"  # one new token sees everything
    later = Mask(Positions(2, 1, cpu, None, None), causal=True)
    assert later.pattern == "other"
    assert later.dense().int().tolist() == [[[[1, 1, 0], [1, 1, 1]]]]
