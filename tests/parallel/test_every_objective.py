"""The first step of every objective on two ranks, replicas and shards: the gradients of one process, of rows of many lengths."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_plans import RECIPES, recipe_of, write_place
from tiny_runs import run_here
from torch import Tensor
from two_ranks import ended, start_ranks

from tfkit.recipe.dump import dump_document

QUICK = ("next sentence", "text_to_text", "chat")
ZERO = {"adapter": "lora_a", "reward": "decoder.norm.bias"}  # the other factor begins at zero; the same for chosen and rejected
GRADIENTS = "/exp_avg"  # AdamW's first moment: after one step a tenth of the gradient


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("objectives"))


def first_step(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gradients and the weights of a run of one step."""
    checkpoint = run / "checkpoints" / "step-000001"
    state = load_file(checkpoint / "training_state" / "optimizer.safetensors")
    weights = next(path for path in sorted(checkpoint.glob("*model.safetensors")))
    return {name: tensor for name, tensor in state.items() if name.endswith(GRADIENTS)}, load_file(weights)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in RECIPES if name not in QUICK)])
def test_step_1_has_the_gradients_of_one_process(name: str, place: Path, in_place: None) -> None:
    """In four micro-batches, whose targets are unequally many. No gradient is zero, but for those that are so by definition."""
    slug = name.replace(" ", "-")
    document = recipe_of(name, steps=1, micro_batch_size=1) | {"evaluation": {"every": None}}
    document["data"].pop("validation")
    Path(f"{slug}.yaml").write_text(dump_document(document), encoding="utf-8")
    words = ["finetune" if "from" in document["model"] else "pretrain", f"{slug}.yaml", "--threads", "1", "--run"]
    run_here([*words, f"{slug}-alone"]).exits(0)
    gradients, weights = first_step(Path(f"{slug}-alone"))
    assert gradients
    zero = [key.removesuffix(GRADIENTS) for key, gradient in gradients.items() if not gradient.any()]
    assert bool(zero) == (name in ZERO)
    assert all(key.endswith(ZERO[name]) for key in zero)
    for shards in (1, 2):
        run = f"{slug}-{shards}"
        ended(start_ranks(place, [*words, run, f"parallel.shard={shards}"]), 0)
        found, reached = first_step(Path(run))
        assert found.keys() == gradients.keys()
        for key, gradient in gradients.items():
            largest = float(gradient.abs().max())
            torch.testing.assert_close(found[key], gradient, rtol=0, atol=1e-7 + 1e-5 * largest, msg=lambda text, key=key: f"{key}: {text}")
        assert reached.keys() == weights.keys()
