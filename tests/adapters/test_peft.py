"""Adapter folders against the `peft` library itself: peft loads tfkit's with the same logits, and tfkit loads peft's.

Each test imports peft itself, because the import takes seconds, for which every worker would wait.
"""

import contextlib
import copy
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_files import read_json
from tiny_runs import Before
from torch import Tensor, nn

import tfkit
from tfkit.adapters import Base, Merged, add_lora, save_adapter
from tfkit.adapters.lora import LoraLinear, layers_of
from tfkit.adapters.peft_config import find_base, how_to_merge, read_peft_config
from tfkit.errors import ModelError, UsageError
from tfkit.families import PRESETS
from tfkit.hub import content_hash, load, save_model
from tfkit.model.config import ModelConfig, TagsHeadConfig
from tfkit.model.transformer import Transformer, build
from tfkit.recipe.presets import merge
from tfkit.recipe.schema.sections import LoraSection

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")  # of peft

SMALL = {"dim": 16, "num_heads": 4, "hidden_dim": 32, "context_length": 24, "vocab_size": 50}
UNTIED = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 50}
NO_DROPOUT = {"dropout": dict.fromkeys(("embedding", "attention", "residual", "hidden", "final", "head"), 0.0)}
EXPERTS = {"count": 4, "active": 2, "hidden_dim": 16, "layers": [True, False]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"decoder_layers": 2}),
    "llama": ("llama3.2-1b", {"decoder_layers": 2, "num_kv_heads": 2, "context_length": 8192 * 32}),
    "pythia": ("pythia-14m", {"decoder_layers": 2, "position": {"fraction": 0.5}}),
    "phi": ("phi3-mini-4k", {"decoder_layers": 2, "num_kv_heads": 2, "context_length": 8192}),
    "qwen3_moe": ("qwen3-moe-30b-a3b", {"decoder_layers": 3, "num_kv_heads": 2, "head_dim": 8, "mlp": {"experts": EXPERTS}}),
    "bert": ("bert-tiny", {"encoder_layers": 2, "head": {"next_sentence": False}}),
    "roberta": ("roberta-base", {"encoder_layers": 2}),
    "electra": ("electra-small", {"encoder_layers": 2, "embedding": {"dim": 8}}),
    "t5": ("t5-small", {"encoder_layers": 2, "decoder_layers": 2, "head_dim": 4, "head": {"scale": 0.25}}),
}
CLASSES = {"kind": "classes", "count": 3, "pool": "first", "dense": "tanh", "bias": True}
# What is adapted, in which model, and the head that comes with it.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "gpt2, q and v of q|k|v": ("gpt2", {"alpha": 5}, None),
    "gpt2, k alone and what is not fused": ("gpt2", {"targets": ["k_proj", "o_proj", "up_proj", "down_proj"]}, None),
    "gpt2, q|k|v with another rank than the rest": ("gpt2", {"targets": ["[qkv]_proj", "o_proj"], "alpha": 3}, None),
    "gpt2, one layer": ("gpt2", {"targets": ["decoder.blocks.1.*.v_proj"]}, None),
    "gpt2, classes": ("gpt2", {}, {"kind": "classes", "count": 3, "pool": "last", "dense": None, "bias": False}),
    "gpt2, tags": ("gpt2", {}, {"kind": "tags", "count": 5}),
    "llama, grouped heads": ("llama", {"targets": ["[qkvo]_proj", "gate_proj"]}, None),
    "llama, one layer": ("llama", {"targets": ["decoder.blocks.0.*.v_proj"]}, None),
    "pythia, q and v of q|k|v, head by head": ("pythia", {"alpha": 5}, None),
    "phi, q and v of q|k|v, and one of gate|up": ("phi", {"targets": ["q_proj", "v_proj", "gate_proj"]}, None),
    "qwen3_moe": ("qwen3_moe", {"targets": ["[qkvo]_proj"]}, None),
    "bert, classes": ("bert", {"targets": ["q_proj", "v_proj", "down_proj"]}, CLASSES),
    "bert, answers": ("bert", {}, {"kind": "spans"}),
    "roberta, classes": ("roberta", {}, CLASSES),
    "roberta, tags": ("roberta", {}, {"kind": "tags", "count": 5}),
    "electra, classes": ("electra", {}, {**CLASSES, "dense": "gelu"}),
    "bert, masked": ("bert", {}, None),
    "t5": ("t5", {"targets": ["q_proj", "v_proj", "down_proj"]}, None),
}


def described(name: str) -> ModelConfig:
    preset, changes = MODELS[name]
    return ModelConfig.model_validate(merge(merge(merge(PRESETS[preset][1], SMALL), NO_DROPOUT), changes))


def write_base(folder: Path, name: str) -> Transformer:
    """Write a model with random weights as a Hugging Face folder."""
    config = described(name)
    model = build(config, seed=1)
    folder.mkdir()
    save_model(folder, config, model.state_dict(), None, family=name)
    return model


def random_updates(model: Transformer) -> None:
    """Change the trained parameters as if they had been trained: B is no longer zero, and a head has other weights."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3, generator=generator)


def logits(model: nn.Module, config: ModelConfig) -> Tensor:
    """Return the logits of a model of tfkit or of transformers."""
    ids = torch.randint(4, config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(7))
    given = {"decoder_input_ids": ids[:, :6]} if config.encoder_layers and config.decoder_layers else {}
    with torch.no_grad():
        found = model.eval()(ids, **given)
    return torch.stack([found.start_logits, found.end_logits], -1) if hasattr(found, "start_logits") else found.logits


def save_ours(folder: Path, model: Transformer, section: LoraSection, base: Path, name: str = "base", **options: Any) -> Path:
    """Save what is trained in a model as an adapter of a base, which it names so."""
    folder.mkdir(parents=True)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_adapter(folder, model.config, trained, None, section, Base(name, base, content_hash(base)), facts={}, **options)
    return folder


def assert_same_logits(found: nn.Module, expected: nn.Module | Tensor, config: ModelConfig) -> None:
    expected = expected if isinstance(expected, Tensor) else logits(expected, config)
    torch.testing.assert_close(logits(found, config), expected, atol=1e-5, rtol=0)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES)
def test_peft_opens_an_adapter_with_the_same_logits_and_transformers_the_merged_model(case: str, tmp_path: Path) -> None:
    import peft

    name, values, head = CASES[case]
    base = tmp_path / "base"
    write_base(base, name)
    asked = None if head is None else _head(described(name), head)
    start = load(base, head=asked)
    model, config, section = start.model, start.model.config, LoraSection(rank=2, **values)
    add_lora(model, section, seed=1, new=start.new_parameters)
    random_updates(model)
    ours = logits(model, config)
    folder = save_ours(tmp_path / "adapter", model, section, base, str(base), family=start.family)

    kind = _class_of(folder)
    labels = {"num_labels": head["count"]} if head and "count" in head else {}
    theirs = kind.from_pretrained(base, **labels)
    if head is not None and head.get("pool") == "last":
        theirs.config.pad_token_id = 0
    assert_same_logits(peft.PeftModel.from_pretrained(theirs, folder), ours, config)
    assert (logits(load(base, head=asked).model, config) - ours).abs().max() > 1e-2

    bases: list[Path] = []
    with Before(tfkit.hub, "describe", bases.append):
        loaded = tfkit.load(folder)
    assert bases == [base.resolve()], "once, with its warnings"
    assert_same_logits(loaded.model, ours, config)
    assert (loaded.config, loaded.new_parameters) == (config, ())
    loaded.save(tmp_path / "whole")
    whole = kind.from_pretrained(tmp_path / "whole")
    whole.config.pad_token_id = 0
    assert_same_logits(whole, ours, config)
    torch.testing.assert_close(Merged(model, model.state_dict()), load(tmp_path / "whole").model.state_dict(), atol=1e-5, rtol=0)


def _head(config: ModelConfig, head: dict[str, Any]) -> Any:
    return ModelConfig.model_validate(config.model_dump() | {"head": head}).head


def _class_of(folder: Path) -> Any:
    """Return the class of transformers that a folder's configuration names."""
    return getattr(transformers, read_json(folder / "config.json")["architectures"][0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}),
        (
            "llama",
            {"target_modules": ["v_proj", "o_proj"], "rank_pattern": {"o_proj": 5}, "alpha_pattern": {"o_proj": 3}, "use_rslora": True},
        ),
        ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
        ("pythia", {"target_modules": ["query_key_value", "dense"]}),
        ("phi", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
        ("bert", {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
        ("bert", {"target_modules": ["query", "value"]}),
        ("t5", {"target_modules": ["q", "v"], "task_type": "SEQ_2_SEQ_LM"}),
    ],
)
def test_what_peft_itself_saved_opens_here(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    import peft

    write_base(tmp_path / "base", name)
    extra = {"num_labels": 3} if settings.get("task_type") == "SEQ_CLS" else {}
    kind = transformers.BertForSequenceClassification if extra else _class_of(tmp_path / "base")
    torch.manual_seed(5)
    theirs = kind.from_pretrained(tmp_path / "base", **extra)
    saved = {"modules_to_save": ["classifier", "pooler.dense"]} if extra else {}
    model = peft.get_peft_model(theirs, peft.LoraConfig(r=3, lora_alpha=7, init_lora_weights=False, **settings, **saved))
    if extra:
        model.base_model.model.classifier.modules_to_save["default"].weight.data.normal_(0, 0.5)
    model.save_pretrained(tmp_path / "adapter")
    loaded = tfkit.load(tmp_path / "adapter")
    assert_same_logits(loaded.model, model, loaded.config)
    assert loaded.config.head.kind == ("classes" if extra else described(name).head.kind)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_head_of_an_adapter_of_peft_is_that_of_its_base_s_configuration(pooling: str, tmp_path: Path) -> None:
    import peft

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    base = transformers.ModernBertConfig(**sizes, **ids, classifier_pooling=pooling)
    transformers.ModernBertForMaskedLM(base).save_pretrained(tmp_path / "base")
    theirs = transformers.ModernBertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    settings = peft.LoraConfig(r=3, target_modules=["Wqkv"], task_type="SEQ_CLS", init_lora_weights=False)
    model = peft.get_peft_model(theirs, settings)
    model.save_pretrained(tmp_path / "adapter")
    loaded = tfkit.load(tmp_path / "adapter")
    assert_same_logits(loaded.model, model, loaded.config)


def test_an_update_begins_as_nothing_and_is_what_the_formula_says() -> None:
    linear = nn.Linear(5, 4)
    layer = LoraLinear(linear, LoraSection(rank=2, alpha=3.0))
    assert layer.weight is linear.weight
    assert set(layer.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}
    x = torch.randn(3, 5)
    layer.lora_a.data.normal_()
    torch.testing.assert_close(layer(x), linear(x), atol=0, rtol=0)
    layer.lora_b.data.normal_()
    expected = x @ (linear.weight + 1.5 * layer.lora_b @ layer.lora_a).T + linear.bias
    torch.testing.assert_close(layer(x), expected)


def test_dropout_is_of_what_the_update_reads_alone() -> None:
    layer = LoraLinear(nn.Linear(6, 4), LoraSection(rank=2, dropout=0.5))
    layer.lora_a.data.normal_()
    layer.lora_b.data.normal_()
    x = torch.randn(3, 6)
    torch.manual_seed(1)
    found = layer(x)
    torch.manual_seed(1)
    dropped = nn.functional.dropout(x, 0.5)
    expected = nn.functional.linear(x, layer.weight, layer.bias) + 8 * dropped @ layer.lora_a.T @ layer.lora_b.T
    torch.testing.assert_close(found, expected)


def test_what_is_drawn_is_drawn_as_peft_draws_it() -> None:
    """A is uniform within 1 / sqrt(in), and the same for the same seed."""
    drawn = [build(described("bert"), seed=1) for _ in range(3)]
    for model, seed in zip(drawn, (1, 1, 2), strict=True):
        add_lora(model, LoraSection(rank=16), seed)
    first, same, other = (torch.cat([layer.lora_a.flatten() for layer in layers_of(model).values()]) for model in drawn)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert 0.24 < float(first.abs().max().detach()) <= 0.25
    assert all(not layer.lora_b.any() for layer in layers_of(drawn[0]).values())


def test_all_but_the_updates_and_the_head_of_the_task_is_frozen() -> None:
    model = build(ModelConfig.model_validate(described("bert").model_dump() | {"head": CLASSES}), seed=1)
    add_lora(model, LoraSection(), seed=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = {"head.pooler.weight", "head.pooler.bias", "head.classes.weight", "head.classes.bias"}
    parts = {f"encoder.blocks.{i}.self_attention.op.{p}_proj.lora_{ab}" for i in range(2) for p in "qv" for ab in "ab"}
    assert trained == heads | parts


def test_a_target_that_is_not_there_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        UsageError, match=r"'c_attn' matches no matrix .* the matrices are encoder\.blocks\.\*\.self_attention\.op\.q_proj, "
    ):
        add_lora(build(described("bert"), seed=1), LoraSection(targets=["c_attn"]), seed=1)
    for section in (LoraSection(), LoraSection(merge=True)):  # for both, a reason that holds
        with pytest.raises(UsageError, match=r"the last 3 entries .* with an adapter only updates of matrices and a head can be"):
            add_lora(build(described("bert"), seed=1), section, seed=1, new=["the last 3 entries of the vocabulary"])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that peft saved, in the same folder as its base."""
    import peft

    place = tmp_path_factory.mktemp("peft")
    write_base(place / "base", "llama")
    theirs = transformers.LlamaForCausalLM.from_pretrained(place / "base")
    peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(place / "adapter")
    return place


def _edited(adapter: Path, to: Path, **fields: Any) -> Path:
    shutil.copytree(adapter, to, dirs_exist_ok=True)
    path = to / "adapter" / "adapter_config.json"
    document = read_json(path) | {"base_model_name_or_path": str(to / "base")} | fields
    path.write_text(json.dumps(document), encoding="utf-8")
    return to / "adapter"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"base_model_name_or_path": None}, "does not name the adapter's base model"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "its base /nowhere/at/all does not exist"),
        ({"lora_alpha": "8"}, "must hold numbers"),
        ({"lora_alpha": 10**400}, "must hold numbers below 1e300"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4': updates of this kind are not supported"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "not the name of a module"),
        ({"alpha_pattern": {"q_proj\\": 3}}, "is not a regular expression"),
        ({"base_model_name_or_path": "../adapter"}, "is itself an adapter; save the base as a whole model first"),
        ({"base_model_name_or_path": "\0"}, "does not exist"),
        ({"base_model_name_or_path": "x" * 5000}, "does not exist"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(adapter: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tfkit.load(_edited(adapter, tmp_path, **fields))


def _merged(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a printed `python -c` in a folder, and load what it writes there."""
    _, _, program, *arguments = shlex.split(command)
    monkeypatch.setattr("sys.argv", ["-c", *arguments])
    monkeypatch.chdir(place)
    exec(program)
    return tfkit.load(place / "WHOLE")


def test_the_printed_command_merges_an_adapter_whatever_its_name(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _edited(adapter, tmp_path / 'it\'s "mine"')
    whole = _merged(how_to_merge(folder), tmp_path, monkeypatch).model.state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in tfkit.load(folder).model.state_dict().items())


_BODY = "base_model.model.model"
_QUERY = f"{_BODY}.layers.0.self_attn.q_proj"
TENSORS: dict[str, tuple[dict[str, tuple[int, ...]], list[str]]] = {  # the shapes of tensors that an adapter also has, what is said
    "several problems": (
        {f"{_QUERY}.lora_A.weight": (3, 3), f"{_BODY}.norm.lora_A.weight": (2, 16), "base_model.model.elsewhere.weight": (1,)}
        | {f"{_BODY}.layers.1.input_layernorm.lora_{factor}.weight": (2, 16) for factor in "AB"},
        [
            "misshapen: model.layers.0.self_attn.q_proj.lora_A.weight (3, 3) instead of (3, 16)",
            "unexpected: model.norm.lora_A.weight",
            "unexpected: elsewhere.weight",
            "no matrix: model.layers.1.input_layernorm.lora_A.weight",
        ],
    ),
    "an update of the embedding": (
        {f"{_BODY}.embed_tokens.lora_embedding_A": (4, 60)},
        ["adapter_model.safetensors: updates of embeddings are not supported; merge them with peft"],
    ),
    **{
        f"factors {a} and {b}": ({f"{_QUERY}.lora_A.weight": a, f"{_QUERY}.lora_B.weight": b}, ["misshapen: "])
        for a, b in (((0, 16), (16, 0)), ((), ()), ((16,), (16,)), ((2, 16), (16, 3)), ((2, 16, 1), (16, 2, 1)))
    },
}


@pytest.mark.parametrize(("shapes", "said"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_fit_no_base_are_all_reported(
    adapter: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: list[str]
) -> None:
    folder = _edited(adapter, tmp_path)
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ModelError) as caught:
        tfkit.load(folder)
    assert [text for text in said if text not in str(caught.value)] == []


def _saved_by_peft(place: Path, trained: list[str]) -> Any:
    """Save, by peft, an adapter of the folder `base` that trains some matrices in full, in the folder `adapter`."""
    import peft

    theirs = transformers.LlamaForCausalLM.from_pretrained(place / "base")
    model = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=trained))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(place / "adapter")
    return model


@pytest.mark.parametrize("trained", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_what_is_trained_beside_the_matrix_it_was_tied_to_is_merged_with_peft(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft leaves the other of the two tied matrices unchanged, so that the model has two different ones."""
    write_base(tmp_path / "base", "llama")
    model = _saved_by_peft(tmp_path, trained)
    with pytest.raises(
        ModelError, match="input and output no longer share a matrix as they do in the base; merge the adapter with peft"
    ) as caught:
        tfkit.load(tmp_path / "adapter")
    loaded = _merged(str(caught.value).rpartition("load the result: ")[2], tmp_path, monkeypatch)
    assert_same_logits(loaded.model, model, loaded.config)


def test_matrices_of_an_untied_base_may_be_trained_in_full(tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**UNTIED)).save_pretrained(tmp_path / "base")
    model = _saved_by_peft(tmp_path, ["embed_tokens", "lm_head"])
    loaded = tfkit.load(tmp_path / "adapter")
    assert_same_logits(loaded.model, model, loaded.config)


def test_a_base_is_found_from_the_adapters_folder_too(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # where the tests are run there may be a ../base
    folder = _edited(adapter, tmp_path, base_model_name_or_path="../base")
    assert find_base(folder, read_peft_config(folder)) == folder / "../base"
    assert tfkit.load(folder).folder == folder


def test_tensors_stay_what_they_were(adapter: Path) -> None:
    """Merging returns new tensors: the model in training is not changed."""
    model = build(described("llama"), seed=1)
    add_lora(model, LoraSection(), seed=1)
    random_updates(model)
    before = copy.deepcopy(model.state_dict())
    assert Merged(model, model.state_dict()).keys() == build(described("llama"), seed=1).state_dict().keys()
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_a_base_of_the_hub_is_recorded_by_name_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_base(tmp_path / "base", "gpt2")
    add_lora(model, LoraSection(), seed=1)
    folder = save_ours(tmp_path / "elsewhere" / "adapter", model, LoraSection(), tmp_path / "base", "hub:org/name@v1", family="gpt2")
    document = read_json(folder / "adapter_config.json")
    assert (document["base_model_name_or_path"], document["revision"]) == ("org/name", "v1")
    shutil.move(tmp_path / "base", tmp_path / "cache")  # so that the way that tfkit.json knows leads nowhere
    asked: list[object] = []
    monkeypatch.setattr("tfkit.adapters.peft_config.find_checkpoint", lambda name: asked.append(name) or tmp_path / "cache")
    assert find_base(folder, read_peft_config(folder)) == tmp_path / "cache"
    assert asked == ["hub:org/name@v1"]


def test_a_base_without_an_owner_is_one_of_the_oldest_models(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfkit.adapters.peft_config.find_checkpoint", lambda name: Path(str(name)))
    for name in ("gpt2", "bert-base-uncased", "t5-small"):
        folder = _edited(adapter, tmp_path, base_model_name_or_path=name)
        assert str(find_base(folder, read_peft_config(folder))) == f"hub:{name}"


def test_an_adapter_of_the_bare_class_fits_a_base_with_a_head(tmp_path: Path) -> None:
    """Its names lack the prefix of the base's names; and an adapter that tfkit wrote for a model without a head loads in the class without
    a head.
    """
    import peft

    write_base(tmp_path / "base", "bert")
    theirs = transformers.BertModel.from_pretrained(tmp_path / "base", add_pooling_layer=False)
    model = peft.get_peft_model(theirs, peft.LoraConfig(r=3, target_modules=["query", "dense"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    loaded = tfkit.load(tmp_path / "adapter")
    ids = torch.randint(4, 50, (2, 9))
    with torch.no_grad():
        expected = model.eval()(ids).last_hidden_state
        torch.testing.assert_close(loaded.model(ids).hidden, expected, atol=1e-5, rtol=0)

    start = load(tmp_path / "base", head=_head(described("bert"), {"kind": "none"}))
    add_lora(start.model, LoraSection(rank=2), seed=1)
    random_updates(start.model)
    save_ours(tmp_path / "ours", start.model, LoraSection(rank=2), tmp_path / "base", family="bert")
    bare = transformers.BertModel.from_pretrained(tmp_path / "base", add_pooling_layer=False)
    opened = peft.PeftModel.from_pretrained(bare, tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(opened(ids).last_hidden_state, start.model.eval()(ids).hidden, atol=1e-5, rtol=0)
        torch.testing.assert_close(tfkit.load(tmp_path / "ours").model(ids).hidden, start.model(ids).hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("preset", "changes", "ids"),
    [("gpt2", {"decoder_layers": 2, "position": {"kind": "sinusoidal"}}, {}), ("roberta-base", {"encoder_layers": 2}, {"pad_token_id": 0})],
    ids=["no class has its positions", "its class would begin its positions after another id"],
)
def test_a_model_that_no_class_computes_has_its_own_names(
    preset: str, changes: dict[str, Any], ids: dict[str, int], tmp_path: Path
) -> None:
    config = ModelConfig.model_validate(merge(PRESETS[preset][1], merge(SMALL, changes)))
    model = build(config, seed=1)
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", config, model.state_dict(), None, special_ids=ids)
    add_lora(model, LoraSection(), seed=1)
    random_updates(model)
    loaded = tfkit.load(save_ours(tmp_path / "adapter", model, LoraSection(), tmp_path / "base", special_ids=ids))
    assert loaded.family == "tfkit"
    assert_same_logits(loaded.model, model, config)


def test_an_adapter_in_another_layout_than_its_base_describes_the_same_model(tmp_path: Path) -> None:
    """No Hugging Face class of Qwen 3's experts has a multiple-choice head, so the base is of tfkit's own type; the adapter, which has
    tags, has a class.
    """
    experts = {"count": 4, "active": 2, "hidden_dim": None}
    body = merge(PRESETS["qwen3-moe-30b-a3b"][1], merge(SMALL, {"decoder_layers": 2, "mlp": {"experts": experts}}))
    choices = ModelConfig.model_validate(body | {"head": {"kind": "lm", "tied": True, "choices": True}})
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", choices, build(choices, seed=1).state_dict(), None)
    start = load(tmp_path / "base", head=TagsHeadConfig(kind="tags", count=3))
    add_lora(start.model, LoraSection(), seed=1)
    loaded = tfkit.load(save_ours(tmp_path / "adapter", start.model, LoraSection(), tmp_path / "base"))
    assert [read_json(tmp_path / name / "config.json")["model_type"] for name in ("base", "adapter")] == ["tfkit", "qwen3_moe"]
    assert_same_logits(loaded.model, start.model, loaded.config)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("value", [None, 3, "x", "", [], {}, [1], {"a": 1}, True, -1, 0, "\0"], ids=repr)
@pytest.mark.parametrize("field", ["base_model_name_or_path", "lora_alpha", "alpha_pattern", "revision", "task_type", "r", "bias"])
def test_whatever_adapter_config_says_there_is_a_model_or_an_error_that_can_be_mended(
    adapter: Path, tmp_path: Path, field: str, value: Any
) -> None:
    with contextlib.suppress(ModelError):
        tfkit.load(_edited(adapter, tmp_path, **{field: value}))
