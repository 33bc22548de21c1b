"""One tiny model of each family through the commands of a user: a plan, LoRA, vectors of texts, and what an upload would send."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import parse_rows, write_rows
from tiny_runs import Done, run_here

import tfkit
from tfkit.families import FAMILIES
from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.recipe.presets import merge
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import Tokenizer, train_tokenizer

SIZES: dict[str, Any] = {"dim": 24, "hidden_dim": 36, "num_heads": 3, "head_dim": 8, "context_length": 128}
FEWER: dict[str, dict[str, Any]] = {  # what else a tiny model of a family needs
    **{name: {"mlp": {"experts": {"count": 4, "active": 2}}} for name in ("mixtral", "olmoe", "qwen3_moe")},
    "electra": {"embedding": {"dim": 12}},
    "deberta_v3": {"position": {"buckets": 8, "max_distance": 16}},
    "t5": {"head": {"scale": 24**-0.5}},
}
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "ran", "fast", "slow", "big", "small", "red", "blue", "tree"]


def rows() -> list[dict[str, Any]]:
    drawn = random.Random(4)
    return [{"text": " ".join(drawn.choices(WORDS, k=3 + n % 7)), "label": WORDS[n % 2]} for n in range(40)]


@pytest.fixture(scope="module")
def codec() -> Tokenizer:
    return train_tokenizer(TokenizerSection(kind="unigram", vocab_size=120), [row["text"] for row in rows()])


def write_model(folder: Path, family: str, codec: Tokenizer) -> ModelConfig:
    """The first preset of a family, tiny, with random weights."""
    values = next(iter(FAMILIES[family].presets.values()))
    layers = {name: 2 for name in ("encoder_layers", "decoder_layers") if values.get(name)}
    heads = {"num_kv_heads": 1 if (values.get("num_kv_heads") or 0) not in (0, values["num_heads"]) else 3}
    changes = merge(SIZES | layers | heads | {"vocab_size": codec.size, "init": {"std": 0.2}}, FEWER.get(family, {}))
    config = ModelConfig.model_validate(merge(values, changes))
    folder.mkdir()
    save_model(folder, config, build(config, seed=3).state_dict(), codec, family=family)
    return config


def ran(*words: object, folder: Path) -> Done:
    return run_here([*words, "--threads", "1"], folder).exits(0)


@pytest.mark.sampled(18)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_the_commands(family: str, tmp_path: Path, codec: Tokenizer) -> None:
    config = write_model(tmp_path / "base", family, codec)
    write_rows(tmp_path / "rows.jsonl", rows())
    columns = "source=text,target=label" if config.encoder_layers and config.decoder_layers else "text=text,label=label"
    task = ["--from", "base", "--data", "rows.jsonl", "--columns", columns, "training.adapter={rank: 2}", "carbon.enabled=false"]
    run_here(["finetune", *task, "training.steps=2", "--run", "lora", "--quiet"], tmp_path).exits(0)
    (folder,) = (tmp_path / "lora" / "checkpoints").glob("step-*")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in folder.iterdir()}
    planned = ran("plan", "lora/recipe.yaml", "--json", folder=tmp_path).document
    assert 0 < planned["trained_parameters"] < planned["parameters"]
    assert planned["active_parameters"] < planned["parameters"] or config.mlp.experts is None
    vectors = parse_rows(ran("embed", "--from", folder, "--data", "rows.jsonl", "carbon.enabled=false", folder=tmp_path).out)
    found = torch.tensor([row["embedding"] for row in vectors])
    assert found.shape == (40, config.dim)
    torch.testing.assert_close(found, tfkit.load(folder).embed([row["text"] for row in rows()]), atol=1e-4, rtol=1e-4)
    tfkit.load(folder).save(tmp_path / "whole")
    sent = run_here(["push", "whole", "org/tiny", "--dry-run", "--json"], tmp_path).exits(0)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {one["name"] for one in sent.document["files"]}
