"""The additional parts of encoder-decoders: two stacks, two masks, attention over an encoder's output, and one matrix under many names."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import transformers
from safetensors.torch import load_file, save_file
from tiny_files import edit_config, read_by
from tiny_references import CASES as ALL_CASES
from tiny_references import IDS, MASK, TARGETS, TOLERANCE, Pair, difference, logits_of, of_each, reference, save_reference
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from tfkit.errors import ModelError
from tfkit.families import PRESETS
from tfkit.hub import load, save_model
from tfkit.model.config import ModelConfig
from tfkit.model.config.position_config import Relative
from tfkit.model.embedding import sinusoids
from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.relative_position import RelativeBias
from tfkit.model.transformer import Transformer, build, with_fewer_positions

CASES = [name for name, case in ALL_CASES.items() if case.config.is_encoder_decoder]
SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
T5 = {name: getattr(ALL_CASES["t5 1.0"].config, name) for name in (*SIZES, "num_decoder_layers", "decoder_start_token_id")}


def _logits(folder: Path) -> torch.Tensor:
    return load(folder).model(IDS, padding_mask=MASK.bool(), decoder_input_ids=TARGETS).logits


def _their_logits(model: transformers.PreTrainedModel) -> torch.Tensor:
    return model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGETS).logits


@pytest.mark.parametrize("case", ["bart", "mbart", "t5 1.0", "mt5"])
@torch.no_grad()
def test_the_ends_of_an_answer_are_transformers(tmp_path: Path, case: str) -> None:
    config = ALL_CASES[case].config
    theirs = transformers.AutoModelForQuestionAnswering.from_config(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    loaded.save(tmp_path / "ours")
    again = read_by(type(theirs), tmp_path / "ours")
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": TARGETS}
    expected = logits_of(theirs(**inputs))
    assert difference(_logits(tmp_path / "theirs"), expected) < TOLERANCE
    assert difference(logits_of(again(**inputs)), expected) < 1e-6


# Positions


def test_buckets_of_distances() -> None:
    """In one direction what comes later is never seen."""
    one = {0: 0, 1: 0, 50: 0, -15: 15, -16: 16, -17: 16, -31: 21, -32: 21, -63: 26, -64: 26, -90: 29, -112: 30, -113: 31, -1000: 31}
    both = {-20: 10, -8: 8, -1: 1, 0: 0, 1: 17, 7: 23, 8: 24, 15: 25, 16: 26, 31: 27, 32: 28, 63: 29, 64: 30, 90: 30, 91: 31}
    for bidirectional, buckets in ((False, one), (True, both)):
        bias = RelativeBias(Relative(kind="relative", buckets=32, max_distance=128), 3, bidirectional=bidirectional)
        assert bias.bucket(torch.tensor(list(buckets))).tolist() == list(buckets.values())


def test_sinusoids_in_both_layouts() -> None:
    sines, cosines = [0.84147, 0.09983, 0.0099998, 0.00099999], [0.54030, 0.99500, 0.99995, 0.9999995]
    in_turns = [value for pair in zip(sines, cosines, strict=True) for value in pair]
    rows = {"interleaved": in_turns, "halves": sines + cosines}
    for layout, row in rows.items():
        assert sinusoids(torch.tensor([1]), 8, layout, torch.float32)[0].tolist() == pytest.approx(row, abs=1e-5)


@torch.no_grad()
def test_sinusoids_at_the_end_of_a_long_context_are_marians() -> None:
    table = MarianSinusoidalPositionalEmbedding(5000, 64).create_weight()
    assert difference(sinusoids(torch.arange(512), 64, "halves", torch.float32), table[:512]) < 5e-5
    assert difference(sinusoids(torch.arange(5000), 64, "halves", torch.float32), table) < 5e-4


# Both stacks


@pytest.mark.sampled(4)
@of_each(CASES)
@torch.no_grad()
def test_a_padded_decoder_is_transformers(pair: Pair) -> None:
    mask = torch.ones_like(TARGETS)
    mask[0, -4:] = 0
    expected = pair.theirs(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGETS, decoder_attention_mask=mask).logits
    logits = pair.ours(IDS, padding_mask=MASK.bool(), decoder_input_ids=TARGETS, decoder_padding_mask=mask.bool()).logits
    assert difference(logits[mask.bool()], expected[mask.bool()]) < TOLERANCE


@pytest.mark.sampled(4)
@of_each(CASES)
@torch.no_grad()
def test_a_padded_source_gives_what_it_gives_alone(pair: Pair) -> None:
    """Padded on either side."""
    for mask in (MASK.bool(), MASK.bool().flip(1)):
        padded = pair.ours(IDS, padding_mask=mask, decoder_input_ids=TARGETS).logits
        for row in range(len(IDS)):
            alone = pair.ours(IDS[row : row + 1, mask[row]], decoder_input_ids=TARGETS[row : row + 1]).logits
            assert difference(padded[row : row + 1], alone) < TOLERANCE


@pytest.mark.sampled(4)
@of_each(CASES)
@torch.no_grad()
def test_a_single_token_is_transformers(pair: Pair) -> None:
    theirs, ours, _ = pair
    given, target = IDS[:1, :1], IDS[:1, 1:2]
    assert difference(ours(given, decoder_input_ids=target).logits, theirs(given, decoder_input_ids=target).logits) < TOLERANCE


@pytest.mark.sampled(4)
@of_each(CASES)
@torch.no_grad()
def test_token_by_token_with_a_cache_is_transformers_full_forward(pair: Pair) -> None:
    expected, model = pair.theirs(input_ids=IDS, attention_mask=MASK, decoder_input_ids=IDS).logits, pair.ours
    projected: list[nn.Module] = []
    hooks = [
        block.cross_attention.op.k_proj.register_forward_hook(lambda module, _inputs, _output: projected.append(module))
        for block in model.decoder.blocks
    ]
    cache = KeyValueCache(model.config, 2, 23, torch.float32)
    encoder_output = model.encode(IDS, MASK.bool())
    parts = [
        model(encoder_output=encoder_output, padding_mask=MASK.bool(), decoder_input_ids=ids, cache=cache).logits
        for ids in IDS.split([5, 3, *[1] * 15], dim=1)
    ]
    for hook in hooks:
        hook.remove()
    assert difference(torch.cat(parts, dim=1), expected) < TOLERANCE
    assert len(projected) == model.config.decoder_layers  # keys of the encoder's output are made once


@pytest.mark.sampled(4)
@of_each(CASES)
@torch.no_grad()
def test_rows_of_a_cache_are_chosen_with_their_source(pair: Pair) -> None:
    """As beam search does: a row twice, in another order, the encoder's output with it."""
    model, rows = pair.ours, torch.tensor([1, 0, 1])
    cache = KeyValueCache(model.config, 2, 11, torch.float32)
    encoder_output, mask = model.encode(IDS, MASK.bool()), MASK.bool()
    model(encoder_output=encoder_output, padding_mask=mask, decoder_input_ids=TARGETS[:, :7], cache=cache)
    kept = KeyValueCache(model.config, 3, 11, torch.float32)
    kept.take([(cache, rows)], 7)
    logits = model(encoder_output=encoder_output[rows], padding_mask=mask[rows], decoder_input_ids=TARGETS[rows, 7:], cache=kept).logits
    expected = model(IDS[rows], padding_mask=mask[rows], decoder_input_ids=TARGETS[rows]).logits[:, 7:]
    assert difference(logits, expected) < TOLERANCE


# Training


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", ["t5 1.0", "t5 1.1", "transformer of 2017"])
@torch.no_grad()
def test_dropout_disturbs_as_much_as_transformers(tmp_path: Path, case: str) -> None:
    """The same places, as the noise of the hidden states shows: one place more or less changes it by more."""
    theirs = save_reference(tmp_path, case, 0.2)
    edit_config(tmp_path, attention_dropout=0.1, activation_dropout=0.1)  # Marian's, off by default
    theirs = type(theirs).from_pretrained(tmp_path)
    model = load(tmp_path).model
    source, target = IDS[:1, :6].expand(6000, -1), IDS[:1, 6:9].expand(6000, -1)
    exact = model(source[:1], decoder_input_ids=target[:1]).hidden
    torch.manual_seed(0)
    ours = model.train()(source, decoder_input_ids=target).hidden
    noisy = theirs.train()(input_ids=source, decoder_input_ids=target, output_hidden_states=True).decoder_hidden_states[-1]
    noises = [(hidden - exact).pow(2).mean((0, 1)).sqrt() for hidden in (ours, noisy)]
    assert (noises[0] / noises[1] - 1).abs().max() < 0.06
    assert abs(float(noises[0].mean() / noises[1].mean()) - 1) < 0.015


@pytest.mark.parametrize("head", ["ConditionalGeneration", "SequenceClassification", "QuestionAnswering", "TokenClassification"])
@torch.no_grad()
def test_t5_starts_by_the_widths_as_transformers_does(tmp_path: Path, head: str) -> None:
    widths = {"d_model": 96, "d_kv": 40, "num_heads": 4, "d_ff": 200, "vocab_size": 997, "relative_attention_num_buckets": 64}
    fresh = getattr(transformers, f"T5For{head}")(transformers.T5Config(**T5 | widths, feed_forward_proj="gated-gelu"))
    fresh.save_pretrained(tmp_path)
    config = load(tmp_path).config
    save_model(tmp_path, config, build(config, 0).state_dict(), None)
    ours = load_file(tmp_path / "model.safetensors")
    for full, theirs in fresh.named_parameters():
        name = full.removeprefix("transformer.")
        assert float(ours[name].std()) == pytest.approx(float(theirs.std()), rel=0.15 if ours[name].numel() < 1000 else 0.04), name


@torch.no_grad()
def test_the_transformer_of_2017_starts_with_variance_one_over_the_width() -> None:
    sizes = {"vocab_size": 997, "context_length": 40, "encoder_layers": 1, "decoder_layers": 1, "dim": 96, "num_heads": 4}
    sizes["hidden_dim"] = 200
    model = build(ModelConfig.model_validate(PRESETS["transformer-2017-base"][1] | sizes), 0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert float(parameter.std()) == pytest.approx(parameter.shape[1] ** -0.5, rel=0.04), name
        else:
            assert parameter.unique().tolist() == [1.0 if name.endswith("norm.weight") else 0.0], name


# Heads


CLASSIFIERS = {"t5 1.0": "T5", "mt5": "MT5", "bart": "Bart", "mbart": "MBart"}


@pytest.mark.parametrize("case", CLASSIFIERS)
@torch.no_grad()
def test_classes_are_read_at_the_end_of_the_text(tmp_path: Path, case: str) -> None:
    kind = getattr(transformers, f"{CLASSIFIERS[case]}ForSequenceClassification")
    config = type(ALL_CASES[case].config)(**ALL_CASES[case].config.to_diff_dict() | {"num_labels": 3})
    theirs = kind(config).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in theirs.parameters():
        parameter.normal_(0.0, 0.35, generator=generator)
    theirs.save_pretrained(tmp_path / "theirs")
    ids, mask = IDS.clone(), MASK.bool()
    ids[0, -1] = ids[1, -6] = config.eos_token_id  # the last real token of each row
    ids[1, -5:] = config.pad_token_id
    shifted = torch.cat((torch.full_like(ids[:, :1], config.decoder_start_token_id), ids[:, :-1]), dim=1)
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": shifted}  # mBART would begin with another token
    expected = theirs(**given).logits
    loaded = load(tmp_path / "theirs")
    assert (
        difference(loaded.model(ids, padding_mask=mask, decoder_input_ids=shifted, decoder_padding_mask=mask).logits, expected) < TOLERANCE
    )
    loaded.save(tmp_path / "ours")
    again = read_by(kind, tmp_path / "ours")
    assert torch.equal(again(**given).logits, expected)


BARE = {"t5 1.0": "T5", "transformer of 2017": "Marian", "mt5": "MT5", "bart": "Bart", "mbart": "MBart"}


@pytest.mark.parametrize("case", BARE)
@torch.no_grad()
def test_a_model_without_a_head(tmp_path: Path, case: str) -> None:
    """Marian's holds its sinusoids in the file."""
    bare = getattr(transformers, f"{BARE[case]}Model")
    reference(case).save_pretrained(tmp_path / "whole")
    theirs = bare.from_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "bare")
    expected = theirs(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGETS).last_hidden_state
    loaded = load(tmp_path / "bare")
    assert loaded.config.head.kind == "none"
    assert difference(loaded.model(IDS, padding_mask=MASK.bool(), decoder_input_ids=TARGETS).hidden, expected) < TOLERANCE
    loaded.save(tmp_path / "ours")
    again, info = bare.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not {name for name in info["missing_keys"] if "embed_positions" not in name}  # the sinusoids, which it makes again
    assert torch.equal(again(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGETS).last_hidden_state, expected)


# Files

SHARED = {"t5 1.0": ("shared.weight", ""), **dict.fromkeys(("transformer of 2017", "bart", "mbart"), ("model.shared.weight", "model."))}


@pytest.mark.parametrize("case", SHARED)
@torch.no_grad()
def test_the_shared_matrix_has_any_of_its_names_and_one_value(tmp_path: Path, case: str) -> None:
    expected = _their_logits(save_reference(tmp_path, case))
    path, (shared, prefix) = tmp_path / "model.safetensors", SHARED[case]
    tensors = load_file(path)
    matrix = tensors.pop(shared)
    names = {name: f"{'' if name == 'lm_head' else prefix}{name}.weight" for name in ("shared", "encoder.embed_tokens", "lm_head")}
    names["decoder.embed_tokens"] = f"{prefix}decoder.embed_tokens.weight"
    for kept in (*([name] for name in names.values()), [*names.values()]):
        save_file(tensors | {name: matrix.clone() for name in kept}, path, {"format": "pt"})
        assert difference(_logits(tmp_path), expected) < TOLERANCE, kept
    save_file(tensors | {shared: matrix, names["encoder.embed_tokens"]: matrix + 1}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"encoder\.embed_tokens\.weight and .*shared\.weight differ") as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


@torch.no_grad()
def test_an_early_t5_file(tmp_path: Path) -> None:
    """The released ones name their class otherwise, leave out what equals the default, and hold a bias that nothing reads."""
    widths = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "num_decoder_layers": 2}
    config = transformers.T5Config(**T5 | widths)
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(
        load_file(path) | {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(32, 3)},
        path,
        {"format": "pt"},
    )
    sizes = {name: T5[name] for name in SIZES}
    early = {"model_type": "t5", "architectures": ["T5WithLMHeadModel"], **sizes}
    (tmp_path / "config.json").write_text(json.dumps(early), encoding="utf-8")
    loaded = load(tmp_path)
    assert loaded.config.context_length == 512
    logits = loaded.model(IDS, padding_mask=MASK.bool(), decoder_input_ids=TARGETS).logits
    assert difference(logits, _their_logits(theirs)) < TOLERANCE


@pytest.mark.parametrize("written", [{"tie_word_embeddings": False}, {"tie_word_embeddings": True, "scale_decoder_outputs": False}])
@torch.no_grad()
def test_both_spellings_of_an_output_matrix_of_its_own(tmp_path: Path, written: dict[str, bool]) -> None:
    theirs = save_reference(tmp_path, "t5 1.1")
    edit_config(tmp_path, remove=("tie_word_embeddings", "scale_decoder_outputs"))
    edit_config(tmp_path, **written)
    loaded = load(tmp_path)
    assert loaded.config.head.model_dump(include={"tied", "scale"}) == {"tied": False, "scale": None}
    assert difference(_logits(tmp_path), _their_logits(theirs)) < TOLERANCE


def test_the_id_that_begins_and_the_one_that_ends_are_kept(tmp_path: Path) -> None:
    save_reference(tmp_path / "theirs", "transformer of 2017")
    load(tmp_path / "theirs").save(tmp_path / "ours")
    again = transformers.MarianMTModel.from_pretrained(tmp_path / "ours").generation_config
    assert (again.decoder_start_token_id, again.pad_token_id, again.eos_token_id, again.forced_eos_token_id) == (0, 0, 1, 1)


def test_a_decoder_of_two_stacks_needs_its_own_ids() -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig.model_validate(PRESETS["t5-small"][1]))
    with pytest.raises(ValueError, match="needs decoder_input_ids"):
        model(IDS)


@pytest.mark.parametrize("case", ["bart", "roberta"])
@torch.no_grad()
def test_a_model_with_fewer_positions_computes_the_same(tmp_path: Path, case: str) -> None:
    """Each of BART's stacks has a table of them."""
    save_reference(tmp_path, case)
    model = load(tmp_path).model
    given = {"decoder_input_ids": TARGETS} if case == "bart" else {}
    assert torch.equal(with_fewer_positions(model, 23)(IDS, **given).logits, model(IDS, **given).logits)
