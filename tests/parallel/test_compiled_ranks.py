"""Ranks compile the model, whole stacks or, where they share the weights, block by block: the same steps as uncompiled ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import pretrain, records, write_corpus, write_recipe

WORDS = ("training={steps: 4, batch_size: 4, micro_batch_size: 2, log_every: 1, precision: fp32}", "evaluation={every: 2}")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["parallel.shard=1", "parallel.shard=2"])
def test_compiled_ranks_take_the_steps_of_one_process(tmp_path: Path, mesh: str) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    assert pretrain(tmp_path / "one", recipe, *WORDS).code == 0
    words = ["pretrain", str(recipe), "--run", str(tmp_path / "two"), "--ranks", "2", *WORDS, mesh, "training.compile=true"]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    done = subprocess.run([sys.executable, "-m", "tfkit", *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "compiled").rglob("*.so"))
    one, two = ([record["loss"] for record in records(tmp_path / name) if "loss" in record] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-6)
