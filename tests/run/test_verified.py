"""The files of a model folder are compared with its manifest while they are read. Damage is refused, and other differences are not."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from tiny_files import flip, read_json

import tfkit
from tfkit.adapters import Base, add_lora, describe, save_adapter
from tfkit.errors import ModelError
from tfkit.families import PRESETS
from tfkit.hub import content_hash, save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.recipe.schema.sections import LoraSection
from tfkit.run import manifest
from tfkit.run.manifest import write_manifest
from tfkit.run.verified import verified

TINY = {"vocab_size": 300, "context_length": 24, "decoder_layers": 2, "dim": 24, "num_heads": 3, "hidden_dim": 40}
WEIGHTS = "model.safetensors"


def write(folder: Path, seed: int = 1) -> Transformer:
    config = ModelConfig.model_validate(PRESETS["gpt2"][1] | TINY)
    model = build(config, seed=seed)
    folder.mkdir(parents=True)
    save_model(folder, config, model.state_dict(), None, family="gpt2", facts={"objective": "causal_lm"})
    (folder / "README.md").write_text("a card", encoding="utf-8")
    write_manifest(folder)
    return model


def shard(folder: Path) -> None:
    """Put the weights into two files with an index, and write the manifest again."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    save_torch_state_dict(tensors, folder, max_shard_size=50_000, metadata={"format": "pt"})
    write_manifest(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "generation_config.json", "tfkit.json"])
def test_one_flipped_bit_is_refused_with_the_file_and_the_remedy(folder: Path, name: str) -> None:
    flip(folder / name)
    with pytest.raises(ModelError, match=f"^{folder / name}: damaged.*Restore the file, or name another checkpoint; `tfkit verify "):
        tfkit.load(folder)
    if name == WEIGHTS:
        describe(folder)  # reads no weights
    else:
        with pytest.raises(ModelError, match="damaged"):
            describe(folder)


def test_damage_is_the_reason_also_where_it_shows_as_something_else_and_is_read_without_verification(folder: Path) -> None:
    good, data = tfkit.load(folder).model.state_dict(), (folder / WEIGHTS).read_bytes()
    flip(folder / WEIGHTS)
    found = tfkit.load(folder, verify=False).model.state_dict()
    assert [name for name in good if not torch.equal(good[name], found[name])]
    (folder / WEIGHTS).write_bytes(data.replace(b'"transformer.h.0.ln_1.bias"', b'"transformer.h.0.ln_1.dias"', 1))
    with pytest.raises(ModelError, match="damaged: its SHA-256"):
        tfkit.load(folder)
    with pytest.raises(ModelError, match=r"unexpected: .*dias"):
        tfkit.load(folder, verify=False)


def test_leftovers_further_files_another_card_and_no_manifest_are_no_damage(folder: Path) -> None:
    (folder / "README.md").write_text("another card", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / f".{WEIGHTS}.tmp-1").write_text("half", encoding="utf-8")
    tfkit.load(folder)
    (folder / "manifest.json").unlink()
    flip(folder / WEIGHTS)
    tfkit.load(folder)


def test_every_shard_and_the_index_are_compared(folder: Path) -> None:
    shard(folder)
    for damaged in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"):
        tfkit.load(folder)
        flip(folder / damaged)
        with pytest.raises(ModelError, match=f"{damaged}: damaged"):
            tfkit.load(folder)
        flip(folder / damaged)  # whole again


def test_files_that_the_manifest_does_not_name_are_ignored(folder: Path, tmp_path: Path) -> None:
    """They are ignored even if they would be read instead of, or in addition to, files that it names."""
    shard(folder)
    named, content, model = describe(folder), content_hash(folder), tfkit.load(folder).model
    (folder / "generation_config.json").unlink()
    write_manifest(folder)
    other = tmp_path / "other"
    write(other, seed=2)
    shutil.copyfile(other / WEIGHTS, folder / WEIGHTS)
    for name, text in {"generation_config.json": '{"num_beams": 7}', "tokenizer.json": "{}", "adapter_config.json": "{}"}.items():
        (folder / name).write_text(text, encoding="utf-8")
    loaded, described = tfkit.load(folder), describe(folder)
    assert all(torch.equal(tensor, loaded.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (loaded.tokenizer, content_hash(folder), described.config) == (None, content, named.config)
    assert "num_beams" not in described.generation
    (folder / "adapter_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    whole = tfkit.load(folder, verify=False).model.state_dict()  # without the manifest, the single file is read instead of the shards
    assert not torch.equal(whole["embedding.tokens.weight"], model.state_dict()["embedding.tokens.weight"])


def test_a_download_with_a_manifest_is_compared_through_the_links_of_the_cache(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        shutil.copyfile(path, blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    tfkit.load(snapshot)
    flip(blobs / WEIGHTS)
    with pytest.raises(ModelError, match=f"{WEIGHTS}: damaged"):
        tfkit.load(snapshot)


def test_an_adapter_and_its_base_are_compared(tmp_path: Path) -> None:
    base, folder, section = tmp_path / "base", tmp_path / "adapter", LoraSection()
    model = write(base)
    add_lora(model, section, 1, ())
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    folder.mkdir()
    save_adapter(folder, model.config, trained, None, section, Base(str(base), base, content_hash(base)), family="gpt2", facts={})
    write_manifest(folder)
    for damaged in ("base/model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        tfkit.load(folder)
        flip(tmp_path / damaged)
        with pytest.raises(ModelError, match=f"{damaged}: damaged"):
            tfkit.load(folder)
        flip(tmp_path / damaged)  # whole again


@pytest.mark.parametrize("is_deleted", [False, True])
def test_what_was_hashed_is_what_is_used(folder: Path, is_deleted: bool) -> None:
    """A file that is replaced or deleted while it is read is no longer the one that was hashed."""

    def change_while_reading() -> None:
        with verified(folder, weights=True):
            if is_deleted:
                (folder / "config.json").unlink()
                return
            shutil.copyfile(folder / WEIGHTS, folder / "copy")
            os.replace(folder / "copy", folder / "config.json")

    with pytest.raises(ModelError, match=r"config\.json: was changed or deleted while it was read"):
        change_while_reading()


def test_one_start_hashes_each_file_once_and_one_that_only_just_came_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two changes within one tick of the file system's clock, the times are the same."""
    tfkit.load(folder)
    assert manifest.cached_sha256(folder / WEIGHTS) is None
    monkeypatch.setattr(manifest, "_SETTLED_NS", -(10**12))  # so that the files count as old
    read, settled = [], manifest.is_settled
    monkeypatch.setattr(manifest, "is_settled", lambda identity: read.append(identity) or settled(identity))
    described = describe(folder)
    content_hash(described.folder)
    tfkit.load(folder)
    assert read.count(manifest.identity_of(folder / WEIGHTS)) == 1
    flip(folder / WEIGHTS)
    with pytest.raises(ModelError, match="damaged"):
        tfkit.load(folder)


def test_an_error_of_the_block_ends_the_hashing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_SETTLED_NS", -(10**12))
    large = 1 << 34  # bytes of a sparse file, which take many seconds to hash
    os.truncate(folder / WEIGHTS, large)
    document = read_json(folder / "manifest.json")
    document["files"][WEIGHTS]["size"] = large
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ZeroDivisionError), verified(folder, weights=True):
        raise ZeroDivisionError
    assert manifest.cached_sha256(folder / WEIGHTS) is None
