"""The recorded weights of attention are those of transformers' eager attention, for every family."""

from pathlib import Path

import pytest
import torch
from tiny_references import CASES, IDS, MASK, TARGETS, Case, difference, run, save_reference

from tfkit.engine.inference.attended_text import record_weights
from tfkit.families import MODEL_TYPES
from tfkit.hub import load

FIELDS = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}


def real_pairs(case: Case, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which queries and which keys are real tokens, each (B, 1, length): of padding the weights mean nothing."""
    masked = MASK.bool() if "attention_mask" in case.inputs else torch.ones_like(MASK, dtype=torch.bool)
    target = torch.ones_like(TARGETS, dtype=torch.bool)
    both = case.config.is_encoder_decoder
    queries = target if both and kind != "encoder" else masked
    keys = target if both and kind == "decoder" else masked
    return queries[:, None], keys[:, None]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_weights_are_transformers(tmp_path: Path, case: str) -> None:
    # T5's scores are not scaled: with weights as large as the others' they reach hundreds, which float32 rounds by 1e-5.
    std = 0.2 if CASES[case].config.model_type in {"t5", "mt5"} else None
    reference = save_reference(tmp_path, case, std)
    reference.set_attn_implementation("eager")
    theirs = reference(**CASES[case].inputs, output_attentions=True)
    expected = {kind: theirs[name] for kind, name in FIELDS.items() if theirs.get(name)}
    model = load(tmp_path).model
    if not CASES[case].config.is_encoder_decoder:
        expected = {"decoder" if model.encoder is None else "encoder": theirs["attentions"]}
    before = run(model, case).hidden
    with record_weights(model) as layers:
        during = run(model, case).hidden
    assert torch.equal(before, during)
    assert layers.keys() == expected.keys()
    for kind, maps in layers.items():
        queries, keys = real_pairs(CASES[case], kind)
        for (weights, visible), reference_weights in zip(maps, expected[kind], strict=True):
            seen = visible & keys[..., None, :] & queries[..., None]
            assert difference(weights * seen, reference_weights * queries[..., None]) < 1e-5
            assert not weights[~visible].any()
            assert torch.allclose(weights.sum(-1), weights.new_ones(()), atol=1e-5)
    if model.encoder is None:
        ago = torch.arange(IDS.shape[1])[:, None] - torch.arange(IDS.shape[1])
        for layer, (_, visible) in enumerate(layers["decoder"]):
            assert torch.equal(visible[0, 0], (ago >= 0) & (ago < (model.config.window(layer) or IDS.shape[1])))


def test_the_cases_are_of_every_family() -> None:
    families = {MODEL_TYPES[case.config.model_type].name for case in CASES.values()}
    assert families == {family.name for family in MODEL_TYPES.values()}
