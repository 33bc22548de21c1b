"""A folder that transformers saved trains on, and what comes of it goes back."""

import torch
import transformers

import tfkit
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper


def test_a_folder_saved_by_transformers_trains_on_and_back(tmp_path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=36, intermediate_size=52, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "theirs")

    loaded = tfkit.load(tmp_path / "theirs")
    weights = Weights(loaded.model, torch.float32)
    optimizer = Optimizer(weights.master, AdamWSection(lr=1e-2))
    stepper = Stepper(LossModule(loaded.model, CausalLM()), weights, optimizer, device=torch.device("cpu"), seed=1)
    rows = torch.randint(97, (4, 13))
    batch = Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
    losses = [stepper.take(step, [batch], 1.0).loss for step in range(1, 31)]
    assert losses[-1] < 0.5 * losses[0]

    loaded.save(tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    loaded.model.eval()
    with torch.no_grad():
        assert (theirs(rows).logits - loaded.model(rows).logits).abs().max() < 1e-4
