"""A model that transformers saved gives transformers' numbers in tfkit, and vice versa."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_files import read_by, read_json
from tiny_references import CASES, IDS, MASK, SMALL, TOLERANCE, Pair, difference, logits_of, of_each, real, run, save_reference
from transformers import AutoConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from tfkit.families import MODEL_TYPES
from tfkit.hub import load
from tfkit.hub.names import from_foreign
from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.transformer import Transformer

DECODERS = [name for name, case in CASES.items() if case.decodes]
FURTHER = {"mc_logits", "seq_relationship_logits", "pooler_output"}  # beside the logits, or the hidden states


@dataclass(frozen=True)
class Written:
    """A case, its model, ours with its weights, and a folder with what transformers saved, and what tfkit saves of that."""

    case: str
    theirs: PreTrainedModel
    ours: Transformer
    folder: Path


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    theirs = save_reference(folder / "theirs", request.param)
    loaded = load(folder / "theirs")
    loaded.save(folder / "ours")
    return Written(request.param, theirs, loaded.model, folder)


@pytest.mark.sampled(4)
@torch.no_grad()
def test_logits_and_every_hidden_state_are_transformers(written: Written) -> None:
    assert_same_states(written.case, written.theirs, written.ours)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_small_weights_show_a_wrong_eps(tmp_path: Path, case: str) -> None:
    assert_same_states(case, save_reference(tmp_path, case, SMALL), load(tmp_path).model)


def assert_same_states(case: str, theirs: PreTrainedModel, ours: Transformer) -> None:
    """Assert that the logits of both models, and the hidden states before each block and at the end of each stack, are equal."""
    states: dict[str, list[torch.Tensor]] = {"encoder": [], "decoder": []}
    hooks = [
        block.register_forward_pre_hook(lambda _module, inputs, name=name: states[name].append(inputs[0]))
        for name in states
        for block in getattr(getattr(ours, name), "blocks", ())
    ]
    output, expected = run(ours, case), theirs(**CASES[case].inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    logits = output.hidden if ours.config.head.kind == "none" else output.logits
    assert difference(real(case, logits), real(case, logits_of(expected))) < TOLERANCE
    for name in FURTHER & expected.keys():
        assert difference(output.extra_logits.squeeze(-1), expected[name]) < TOLERANCE
    both = ours.encoder is not None and ours.decoder is not None
    for name, found in states.items():
        if found:
            last = ours.encode(IDS, MASK.bool()) if both and name == "encoder" else output.hidden  # their last one is normed
            for state, other in zip([*found, last], expected[f"{name}_hidden_states" if both else "hidden_states"], strict=True):
                assert difference(real(case, state), real(case, other)) < TOLERANCE


@pytest.mark.sampled(4)
@torch.no_grad()
def test_transformers_reads_what_tfkit_writes(written: Written) -> None:
    again = read_by(type(written.theirs), written.folder / "ours")
    assert again.dtype == torch.float32
    ours, theirs = (model(**CASES[written.case].inputs) for model in (again, written.theirs))
    assert difference(logits_of(ours), logits_of(theirs)) < 1e-6  # a product with one row is rounded by where it lies in memory
    for name in FURTHER & theirs.keys():
        assert difference(ours[name], theirs[name]) < 1e-6


@pytest.mark.sampled(4)
def test_the_configuration_is_transformers_own(written: Written) -> None:
    folder = written.folder
    ours, theirs = (AutoConfig.from_pretrained(folder / name).to_dict() for name in ("ours", "theirs"))
    incidental = {"_name_or_path", "transformers_version", "n_ctx", "cls_token_id", "sep_token_id"}
    incidental |= {"partial_rotary_factor"}  # also in rope_parameters
    assert {name: value for name, value in ours.items() if name not in incidental} == {
        name: value for name, value in theirs.items() if name not in incidental
    }
    config = read_json(folder / "ours" / "config.json")
    assert "dtype" not in config  # the old names, which every version of transformers reads
    assert config["torch_dtype"] == "float32"
    if ours["model_type"] == "llama":
        assert config["rope_theta"] == theirs["rope_parameters"]["rope_theta"]
        assert "rope_parameters" not in config


@pytest.mark.sampled(4)
def test_save_load_save_gives_the_same_bytes(written: Written) -> None:
    folder = written.folder
    load(folder / "ours").save(folder / "again")
    first, second = ({path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in ("ours", "again"))
    assert first.keys() == {"config.json", "generation_config.json", "model.safetensors", "tfkit.json"}
    assert first == second


@pytest.mark.sampled(4)
@of_each(DECODERS)
@torch.no_grad()
def test_left_padding_is_transformers(pair: Pair) -> None:
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # transformers' GPT-2 would count the padding
    expected = pair.theirs(IDS, attention_mask=mask, position_ids=positions).logits
    logits = pair.ours(IDS, padding_mask=mask.bool()).logits
    assert difference(logits[mask.bool()], expected[mask.bool()]) < TOLERANCE


@pytest.mark.sampled(4)
@of_each(DECODERS)
@torch.no_grad()
def test_token_by_token_with_a_cache_is_transformers_full_forward(pair: Pair) -> None:
    cache = KeyValueCache(pair.ours.config, 2, 23, torch.float32)
    parts = [pair.ours(ids, cache=cache).logits for ids in IDS.split([5, 3, *[1] * 15], dim=1)]
    assert difference(torch.cat(parts, dim=1), pair.theirs(IDS).logits) < TOLERANCE


@pytest.mark.sampled(4)
@of_each(DECODERS)
@torch.no_grad()
def test_packed_documents_compute_what_each_does_in_transformers(pair: Pair) -> None:
    lengths = [9, 1, 13]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).expand(2, -1)
    alone = torch.cat([pair.theirs(part).logits for part in IDS.split(lengths, dim=1)], dim=1)
    assert difference(pair.ours(IDS, document_ids=documents).logits, alone) < TOLERANCE


@pytest.mark.sampled(8)
@of_each(DECODERS)
def test_gradients_are_transformers(pair: Pair) -> None:
    _assert_same_gradients(pair)


@pytest.mark.sampled(3)
@of_each(["bert", "distilbert", "roberta", "modernbert", "electra", "mpnet", "deberta"])
def test_gradients_of_an_encoder_are_transformers(pair: Pair) -> None:
    """With padding, whose logits do not count."""
    _assert_same_gradients(pair)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", ["t5 1.0", "t5 1.1", "transformer of 2017"])
def test_gradients_of_an_encoder_decoder_are_transformers(tmp_path: Path, case: str) -> None:
    _assert_same_gradients(Pair(save_reference(tmp_path, case, 0.1), load(tmp_path).model, case))


def _assert_same_gradients(pair: Pair) -> None:
    theirs, model, case = pair
    weights = torch.linspace(-1, 1, 97)  # of the logits in the sum that is differentiated
    (real(case, logits_of(theirs(**CASES[case].inputs))) @ weights).mean().backward()
    (real(case, run(model, case).logits) @ weights).mean().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    if model.config.mlp.experts is not None:  # transformers holds the matrices of all experts of a layer in one tensor, unlike files
        gradients = revert_weight_conversion(theirs, gradients)
    expected = from_foreign(gradients, MODEL_TYPES[theirs.config.model_type], model.config)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    buffers = {"head.bias"} if theirs.config.model_type == "marian" else set()  # which transformers does not train
    assert found.keys() == expected.keys() | buffers
    assert CASES[case].encodes or len(found) == len(list(model.parameters()))
    for name in expected:
        assert difference(found[name], expected[name]) < TOLERANCE * max(1.0, float(expected[name].abs().max())), name


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [*DECODERS, *(name for name, case in CASES.items() if case.config.is_encoder_decoder)])
@torch.no_grad()
def test_bfloat16_arithmetic_is_close_to_transformers(tmp_path: Path, case: str) -> None:
    theirs = save_reference(tmp_path, case)
    exact = logits_of(theirs(**CASES[case].inputs))
    theirs_off = (logits_of(theirs.to(torch.bfloat16)(**CASES[case].inputs)).float() - exact).pow(2).mean().sqrt()
    ours_off = (run(load(tmp_path, dtype=torch.bfloat16).model, case).logits.float() - exact).pow(2).mean().sqrt()
    assert ours_off < 1.5 * theirs_off  # both round, each in its own order
