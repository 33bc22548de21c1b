"""Model folders are found, read strictly, refused with a reason, and saved."""

import hashlib
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from tiny_files import edit_config, edit_weights
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForSequenceClassification

import tfkit
from tfkit import network
from tfkit.engine.assembly.training_data import tokenizer_folder
from tfkit.engine.request.inputs import inputs_of
from tfkit.errors import ModelError
from tfkit.families import MODEL_TYPES, PRESETS
from tfkit.hub import find_checkpoint, load, save_model
from tfkit.hub.find import unread_format
from tfkit.model.config import ModelConfig, TagsHeadConfig
from tfkit.model.transformer import Transformer, build
from tfkit.run.best_json import record_best
from tfkit.run.checkpoints import save_checkpoint
from tfkit.tokenizer import train_byte_bpe

TINY: dict[str, Any] = {"vocab_size": 300, "context_length": 24, "decoder_layers": 2, "dim": 24, "num_heads": 3, "hidden_dim": 40}
IDS = torch.tensor([[7 * t % 299 for t in range(20)]])
OURS_ALONE: dict[str, Any] = {"position": {"kind": "rotary"}, "embedding": {"norm": True}}  # a GPT-2 with these has no Hugging Face class


def tiny_config(preset: str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(PRESETS[preset][1] | TINY | changes)


def write(folder: Path, preset: str = "gpt2", **changes: Any) -> Transformer:
    """Save a model with random weights by tfkit, and return it."""
    model = build(tiny_config(preset, init={"std": 0.35}, **changes), seed=1)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, model.config, model.state_dict(), None)
    return model.eval()


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return refusal_of(caught.value, folder)


def refusal_of(error: ModelError, folder: Path) -> str:
    """Return the message of the error, after checking that it names the folder."""
    assert error.exit_code == 4
    assert str(error).startswith(str(folder))
    return str(error)


# ------------------------------------------------------------------------------------------------------ weights that do not fit


@pytest.mark.parametrize("preset", ["gpt2", "llama-7b"])
def test_every_missing_unexpected_and_misshapen_tensor_is_listed(tmp_path: Path, preset: str) -> None:
    write(tmp_path, preset)
    names = list(load_file(tmp_path / "model.safetensors"))
    gone, wider = names[2], [name for name in names if "c_attn.weight" in name or "k_proj.weight" in name]

    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors[gone]
        tensors["adapter.weight"] = torch.zeros(3, 24)
        for name in wider:
            tensors[name] = torch.zeros(24, 5, 2)

    edit_weights(tmp_path, edit)
    first, *lines, remedy = refusal(tmp_path).splitlines()
    assert first.endswith("the weights do not fit config.json:")
    assert remedy == "Copy both again, from the same source"
    assert len(lines) == 4
    assert lines[0].startswith(f"  missing: {gone} (")
    assert lines[1] == "  unexpected: adapter.weight (3, 24)"
    full = (24, 72) if preset == "gpt2" else (24, 24)
    assert lines[2:] == [f"  misshapen: {name} (24, 5, 2) instead of {full}" for name in sorted(wider)]


def test_biases_that_the_configuration_does_not_have_are_not_dropped(tmp_path: Path) -> None:
    write(tmp_path, "llama-7b")
    edit_weights(tmp_path, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(24)}))
    assert "unexpected: model.layers.0.self_attn.q_proj.bias (24,)" in refusal(tmp_path)


def test_more_layers_in_the_file_than_in_the_configuration(tmp_path: Path) -> None:
    write(tmp_path)
    edit_config(tmp_path, n_layer=1)
    assert refusal(tmp_path).count("unexpected: transformer.h.1.") == 12


def test_a_missing_head_is_an_error_unless_tied(tmp_path: Path) -> None:
    write(tmp_path, "llama-7b")
    edit_weights(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    assert "missing: lm_head.weight (300, 24)" in refusal(tmp_path)
    edit_config(tmp_path, tie_word_embeddings=True)
    assert load(tmp_path).config.head.tied


@pytest.mark.parametrize("take", [dict.pop, lambda tensors, name: tensors[name].clone()], ids=["alone", "twice in the file"])
@torch.no_grad()
def test_a_tied_matrix_under_the_heads_name(tmp_path: Path, take: Callable[[dict[str, Tensor], str], Tensor]) -> None:
    model = write(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.update({"lm_head.weight": take(tensors, "transformer.wte.weight")}))
    loaded = load(tmp_path)
    assert loaded.config.head.tied
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)


@torch.no_grad()
def test_matrices_that_should_be_tied_but_differ_are_both_kept(tmp_path: Path) -> None:
    write(tmp_path / "a")
    edit_weights(tmp_path / "a", lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"] + 0.5}))
    loaded = load(tmp_path / "a")
    assert not loaded.config.head.tied
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    torch.testing.assert_close(loaded.model(IDS).logits, theirs(IDS).logits, atol=1e-4, rtol=1e-4)
    loaded.save(tmp_path / "b")
    assert torch.equal(load(tmp_path / "b").model(IDS).logits, loaded.model(IDS).logits)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert torch.equal(again(IDS).logits, theirs(IDS).logits)


# ------------------------------------------------------------------------------------------------------------- damaged folders


@pytest.mark.parametrize(
    ("config", "name"),
    [({"architectures": ["BartModel"]}, "BartModel"), ({}, "AutoModel"), ({"architectures": ["os; rm"]}, "AutoModel"), (None, "AutoModel")],
)
def test_the_command_that_converts_a_pickle_names_the_class_of_the_model(tmp_path: Path, config: Any, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert f'transformers: {name}.from_pretrained("OLD")' in str(unread_format(tmp_path / "pytorch_model.bin"))


WEIGHT_MAPS: list[object] = [{"a": ".."}, {"a": 3}, ["a"], None, {}]
SETTINGS: list[object] = [[], "x", {"dim": 48}, {"init": {"std": -1}}, {"dropout": 3}]  # ours cannot say what config.json says
DAMAGED: list[tuple[str, str | None, str]] = [  # file, its text, what is said
    ("model.safetensors", None, "model.safetensors: there is no such file"),
    *(("model.safetensors.index.json", json.dumps({"weight_map": it}), "weight_map does not map each tensor") for it in WEIGHT_MAPS),
    *(("config.json", text, "config.json") for text in ("", "[]", "{", '"gpt2"', "\ufffe")),
    *(("tfkit.json", json.dumps({"model": model}), "tfkit.json: ") for model in SETTINGS),
]


@pytest.mark.parametrize(("file", "text", "said"), DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, file: str, text: str | None, said: str) -> None:
    write(tmp_path)
    if file.startswith("model.safetensors"):
        (tmp_path / "model.safetensors").unlink()
    if text is not None:
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert said in refusal(tmp_path)


TYPES = f"Use a model of one of these types: {', '.join(MODEL_TYPES)}"
NO_MODEL: list[tuple[dict[str, Any], str]] = [  # changes, None: without the key; what is said
    *(({"model_type": kind}, f"model_type {kind!r} is not implemented.*{TYPES}$") for kind in ("bloom", "mamba", ["gpt2"], "")),
    ({"model_type": None}, f"model_type None is not implemented.*{TYPES}$"),
    *(({field: None}, f"the field '{field}' is missing$") for field in ("n_embd", "vocab_size", "n_positions", "n_layer", "n_head")),
    ({"n_head": 7}, "config.json: dim 24 is not divisible by num_heads 7; change one of them"),  # it concerns several: none is named before
]


@pytest.mark.parametrize(("changes", "said"), NO_MODEL)
def test_a_configuration_of_no_model_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write(tmp_path)
    edit_config(tmp_path, remove=tuple(key for key, value in changes.items() if value is None), **changes)
    assert re.search(said.replace("[", r"\["), refusal(tmp_path))


@pytest.mark.sampled(17)
@pytest.mark.parametrize("garbage", [None, "x", -1, 0, 0.5, [], {}, [3], {"a": 1}, "5"])
@pytest.mark.parametrize("preset", ["gpt2", "llama-7b", "own", "t5-small", "transformer-2017-base", "bart-base", "mbart-large-cc25"])
def test_any_field_may_hold_anything(tmp_path: Path, preset: str, garbage: object) -> None:
    """The result is a model that fits, or a ModelError that names the folder, but never a crash."""
    t5 = {"head": PRESETS["t5-small"][1]["head"] | {"scale": TINY["dim"] ** -0.5}}  # the scale of T5's class follows from its width
    name = "gpt2" if preset == "own" else preset
    layers = {stack: 1 for stack in ("encoder_layers", "decoder_layers") if PRESETS[name][1].get(stack)}
    write(tmp_path, name, **layers, **{"own": OURS_ALONE, "t5-small": t5}.get(preset, {}))
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert (whole["model_type"] == "tfkit") == (preset == "own")
    refused = 0
    for field in [*whole, "rope_parameters"]:
        path.write_text(json.dumps(whole | {field: garbage}), encoding="utf-8")
        try:
            load(tmp_path)
        except ModelError as error:
            refused += 1
            refusal_of(error, tmp_path)
    assert refused >= (2 if preset == "own" else 5)


# ------------------------------------------------------------------------------------------------------------- finding and saving


def save_step(run: Path, step: int) -> Path:
    return save_checkpoint(run / "checkpoints", step, lambda folder: write(folder) and None)


def test_the_forms_of_a_path(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first, second = save_step(run, 5), save_step(run, 10)
    assert find_checkpoint(first) == first
    assert find_checkpoint(str(first)) == first
    assert find_checkpoint(run) == second
    record_best(run / "checkpoints", 5, "loss", 2.0)
    assert find_checkpoint(run) == first
    (first / "model.safetensors").unlink()  # the best checkpoint is no longer complete
    with pytest.warns(UserWarning, match="its best checkpoint, of step 5, is not complete here; step-000010 is used"):
        assert find_checkpoint(run) == second
    (second / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"run: this run has no readable run\.json, and has no complete checkpoint yet"):
        find_checkpoint(run)
    receipt = {"schema_version": 1, "run_id": "1", "status": "running", "attempts": []}
    (run / "run.json").write_text(json.dumps(receipt), encoding="utf-8")
    with pytest.raises(ModelError, match=r"run: this run is in progress or was killed, and has no complete checkpoint yet"):
        find_checkpoint(run)


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "model")
    assert find_checkpoint("~/model") == tmp_path / "model"
    assert tokenizer_folder("~/model") == tmp_path / "model"
    assert inputs_of([], [], ["~/model"]).models == (tmp_path / "model",)
    with pytest.raises(ModelError, match=r"^~no such user/model: there is no such folder"):
        find_checkpoint("~no such user/model")


def test_paths_that_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for name, message in {
        "nowhere": "there is no such folder; give a checkpoint, a run folder, or a Hugging Face model folder",
        ".": r"no config\.json here",
        "file": "file: a file; give the folder that holds it",
        "a" * 5000: "cannot be read",
    }.items():
        with pytest.raises(ModelError, match=message):
            find_checkpoint(tmp_path / name)
    with pytest.raises(ModelError, match=r"or a Hugging Face model folder; on the Hub it is hub:org/tiny$"):
        find_checkpoint("org/tiny")
    (tmp_path / "run.gguf").write_bytes(b"GGUF")
    for gguf in (tmp_path / "run.gguf", tmp_path):
        with pytest.raises(ModelError, match=r'run\.gguf: a GGUF file, .* gguf_file="run\.gguf"\)\.save_pretrained\("NEW"\)'):
            find_checkpoint(gguf)
    (tmp_path / "run.gguf").unlink()
    for step in (500, 1000):  # as transformers' Trainer saves them
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").touch()
    with pytest.raises(ModelError, match=r"neither a model folder nor a run folder; name a model folder in it, such as .*checkpoint-1000$"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelError, match="no complete checkpoint yet"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@v1", "not a name", "a/b/c", ""])
def test_a_hub_name_that_cannot_be_downloaded(name: str) -> None:
    with pytest.raises(ModelError, match=f"hub:{name}: could not be downloaded: "):
        find_checkpoint(f"hub:{name}")


@pytest.fixture
def cached_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a repository org/tiny into the Hub's cache, as a download does."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    write(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name, encoding="utf-8")
    return snapshot


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TFKIT_OFFLINE"])
def test_a_hub_repository_that_was_downloaded_before(cached_snapshot: Path, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", switch == "HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("TFKIT_OFFLINE", str(int(switch == "TFKIT_OFFLINE")))
    called: list[object] = []

    def refuse(_socket: socket.socket, address: object) -> None:
        called.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("hub:org/tiny", "hub:org/tiny@main", f"hub:org/tiny@{cached_snapshot.name}"):
        assert find_checkpoint(name) == cached_snapshot
    assert load("hub:org/tiny").family == "gpt2"
    with pytest.raises(ModelError, match=r"hub:org/tiny@v2: could not be downloaded"):
        find_checkpoint("hub:org/tiny@v2")
    with pytest.raises(ModelError, match=f"name a model folder in it, such as {cached_snapshot}$"):
        find_checkpoint(cached_snapshot.parent.parent)
    assert not called


def test_the_tokenizer_is_the_librarys_and_goes_along(tmp_path: Path) -> None:
    tokenizer = train_byte_bpe(["def f(x):\n    return x\n"] * 20, 270, True)
    config = tiny_config("gpt2")
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", config, build(config, seed=1).state_dict(), tokenizer)
    loaded = tfkit.load(tmp_path / "model")
    assert isinstance(loaded.tokenizer, tokenizers.Tokenizer)
    text = "def g(y): return 3"
    ids = loaded.tokenizer.encode(text).ids
    assert ids == tokenizer.encode_texts([text])[0] == AutoTokenizer.from_pretrained(tmp_path / "model")(text)["input_ids"]
    assert loaded.eos_ids == [tokenizer.eos_id]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config.eos_token_id == tokenizer.eos_id
    loaded.save(tmp_path / "again")
    for path in filter(Path.is_file, tmp_path.iterdir()):
        again = tmp_path / "again" / path.name
        if path.name == "tokenizer_config.json":  # the keys of this file may be in another order
            assert json.loads(path.read_bytes()) == json.loads(again.read_bytes())
        else:
            assert path.read_bytes() == again.read_bytes(), path.name


def test_a_tokenizer_with_more_entries_than_the_model_is_refused(tmp_path: Path) -> None:
    tokenizer = train_byte_bpe(["def f(x):\n    return x\n"] * 20, 270, True)
    config = tiny_config("gpt2").model_copy(update={"vocab_size": tokenizer.size - 1})
    save_model(tmp_path, config, build(config, seed=1).state_dict(), tokenizer, special_ids={"eos_token_id": 0})
    with pytest.raises(
        ModelError, match=rf"tokenizer\.json: {tokenizer.size} entries, but vocab_size in config\.json is {tokenizer.size - 1}"
    ):
        load(tmp_path)


def test_a_loaded_model_is_ready_to_train_or_to_use(tmp_path: Path) -> None:
    write(tmp_path)
    loaded = load(tmp_path)
    assert (loaded.tokenizer, loaded.codec, loaded.eos_ids) == (None, None, [])
    assert not loaded.model.training
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in loaded.model.parameters())
    storages = [parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()]
    assert len(set(storages)) == len(storages)  # q, k and v do not share the memory of the tensor from which they were read
    assert {parameter.dtype for parameter in load(tmp_path, dtype=torch.bfloat16).model.parameters()} == {torch.bfloat16}


def test_weights_of_half_precision_are_saved_in_float32(tmp_path: Path) -> None:
    write(tmp_path / "a")
    load(tmp_path / "a", dtype=torch.bfloat16).save(tmp_path / "b")
    saved = load_file(tmp_path / "b" / "model.safetensors")
    original = load_file(tmp_path / "a" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all(torch.equal(saved[name], original[name].to(torch.bfloat16).float()) for name in original)


@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_names_of_labels_and_what_they_are_survive(tmp_path: Path, problem: str | None) -> None:
    """Only config.json of a folder without tfkit.json names the labels. If a name is missing, they are LABEL_0, ... as in transformers."""
    names = {0: "sad", 1: "glad", 2: "2"}
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    config = BertConfig(**sizes, max_position_embeddings=8, id2label=names, problem_type=problem)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    assert loaded.labels == ("sad", "glad", "2")
    loaded.save(tmp_path / "ours")
    again = BertConfig.from_pretrained(tmp_path / "ours")
    assert (again.id2label, again.label2id, again.problem_type) == (names, {"sad": 0, "glad": 1, "2": 2}, problem)
    assert load(tmp_path / "theirs", head=TagsHeadConfig(kind="tags", count=3)).labels == ("LABEL_0", "LABEL_1", "LABEL_2")

    path = tmp_path / "theirs" / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | {"id2label": {"0": "sad", "1": None, "2": "2"}}), encoding="utf-8")
    assert load(tmp_path / "theirs").labels == ("LABEL_0", "LABEL_1", "LABEL_2")


HEADS: list[dict[str, Any]] = [
    {"kind": "lm", "tied": False},
    {"kind": "lm", "tied": True, "choices": True},
    {"kind": "masked_lm", "tied": True},
    {"kind": "classes", "count": 3, "pool": "last", "bias": True},
    {"kind": "classes", "count": 1, "pool": "first", "dense": "tanh", "bias": True},
    {"kind": "tags", "count": 3},
    {"kind": "spans"},
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("preset", ["bert-tiny", "gpt3-125m", "llama-7b", "t5-small"])
def test_any_head_is_put_on_a_model_with_any_other(tmp_path: Path, preset: str) -> None:
    """Also a head for which the family has no name. A tensor of the old head is never used as a tensor of the new one."""
    values = PRESETS[preset][1]
    stacks = {name: 1 for name in ("encoder_layers", "decoder_layers") if values.get(name)}
    sizes = stacks | {"vocab_size": 61, "context_length": 24, "dim": 24, "num_heads": 3, "head_dim": 8, "hidden_dim": 96}
    for number, own in enumerate(HEADS):
        config = ModelConfig.model_validate(values | sizes | {"head": own})
        (folder := tmp_path / str(number)).mkdir()
        model = build(config, seed=1)
        save_model(folder, config, model.state_dict(), None, family=PRESETS[preset][0].name)
        for other in HEADS:
            asked = ModelConfig.model_validate(config.model_dump() | {"head": other}).head
            if own == other or (own["kind"] == other["kind"] == "classes"):  # for other classes, other_labels is needed, too
                continue
            loaded = load(folder, head=asked, seed=2)
            assert loaded.config.head.model_dump(exclude={"tied"}) == asked.model_dump(exclude={"tied"})  # the file says what is tied
            if own["kind"] != other["kind"] and other["kind"] in ("classes", "tags", "spans"):
                assert {name for name in loaded.model.state_dict() if name.startswith("head.")} == {*loaded.new_parameters}


def test_a_file_with_other_content_than_its_hash_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blob, whose name is its SHA-256, and its link are deleted from the cache. After the third such download there is an error."""
    monkeypatch.setattr("tfkit.network._PAUSES", (0.0, 0.0))
    blob = tmp_path / "blobs" / hashlib.sha256(b"right").hexdigest()
    link = tmp_path / "snapshots" / "main" / "model.safetensors"
    contents, discarded = iter([b"wrong", b"right", b"wrong", b"wrong", b"wrong"]), []

    def download() -> int:
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content := next(contents))
        if not link.is_symlink():
            link.symlink_to(blob)
        return len(content)

    assert network.fetch(download, tmp_path, discarded.append) == 5
    assert (link.read_bytes(), discarded) == (b"right", [5])
    with pytest.raises(network.WrongContentError, match=r"model\.safetensors had other content than the hub's hash"):
        network.fetch(download, tmp_path, discarded.append)
    assert not blob.exists()
    assert not link.is_symlink()


def test_an_error_after_wrong_content_is_judged_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that cannot be read is no reason to download a third time, though the first download had wrong content."""
    monkeypatch.setattr("tfkit.network._PAUSES", (0.0, 0.0))
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "config.json").symlink_to(blob := tmp_path / "blobs" / ("a" * 40))
    makers = iter([lambda: blob.write_bytes(b"wrong"), blob.mkdir, lambda: pytest.fail("a third download")])
    with pytest.raises(IsADirectoryError):
        network.fetch(lambda: next(makers)(), tmp_path)
