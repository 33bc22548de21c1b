"""Each family, tiny, through the real commands: two steps, stopped after the first, resumed to the same bits; then it writes."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import exact, hashes, kept, pretrain, run_tfkit, strike, write_corpus, write_recipe

from tfkit.hub import load

WORDS = ["training.steps=2", "training.batch_size=2", "training.log_every=1", "evaluation.every=2"]
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {  # the preset with what differs, and the model_type of its checkpoint
    "gpt": ({"preset": "gpt"}, "openai-gpt"),
    "gpt3": ({"preset": "gpt3-125m", "attention": {"windows": [None, 4]}}, "tfkit"),
    "gpt3 without bands": ({"preset": "gpt3-175b", "attention": {"windows": [None]}}, "gpt2"),
}


@pytest.mark.parametrize(("model", "model_type"), FAMILIES.values(), ids=FAMILIES)
def test_a_family_pretrains_resumes_and_generates(tmp_path: Path, model: dict[str, Any], model_type: str) -> None:
    sizes = {"decoder_layers": 2, "dim": 16, "num_heads": 2, "context_length": 16}
    words = [f"model={json.dumps(model | sizes)}", *WORDS]
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    whole, run = tmp_path / "whole", tmp_path / "run"
    pretrain(whole, recipe, *words).exits(0)
    assert pretrain(run, recipe, *words, before=strike(signal.SIGTERM, 1)).code == 143
    assert kept(run) == ["step-000001"]
    assert pretrain(run, recipe, "--resume", *words).code == 0
    assert hashes(run, 2) == hashes(whole, 2)
    assert exact(run) == exact(whole)
    loaded = load(run)
    assert json.loads((loaded.folder / "config.json").read_text(encoding="utf-8"))["model_type"] == model_type
    assert (loaded.config.decoder_layers, loaded.config.context_length) == (2, 16)
    arguments = ["generate", "--from", str(run), "--prompt", "the cat", "--max-new-tokens", "4", "--temperature", "0", "--json"]
    done = run_tfkit(tmp_path, [*arguments, "--threads", "1", "carbon.enabled=false"]).exits(0)
    assert json.loads(done.out)["tokens"] == 4
