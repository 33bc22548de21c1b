"""DPO's and the reward model's losses and gradients against those of TRL for the same batch, if TRL is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_examples import batch_of, model, opened, stored, whole_batch
from tiny_preferences import DECODER, SCORER, dpo_objective, paired_rows, reward_objective
from torch import nn

from tfkit.engine.assembly.reference_model import with_reference
from tfkit.engine.listener import Silent
from tfkit.hub.config_json import family_of
from tfkit.hub.names import to_foreign
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import IGNORED

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and what it imports
PAIRS = 8
CHOSEN_FIRST = [*range(0, 2 * PAIRS, 2), *range(1, 2 * PAIRS, 2)]  # TRL's order
NO_DROPOUT = {"dropout": {"residual": 0.0}}
QUIET: dict[str, Any] = {"report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False}


def assert_same_gradients(ours: Transformer, other: nn.Module) -> None:
    found = dict(to_foreign({name: one.grad for name, one in ours.named_parameters()}, family_of(ours.config, "llama"), ours.config))
    expected = {name: one.grad for name, one in other.named_parameters()}
    assert found.keys() >= expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) < 1e-5, name


def test_dpo(tmp_path: Path) -> None:
    objective = dpo_objective(beta=0.3)
    policy, reference = model(DECODER | NO_DROPOUT | {"init": {"std": 0.25}}).eval(), model(DECODER | NO_DROPOUT).eval()
    batch = whole_batch(
        with_reference(stored(tmp_path, paired_rows(PAIRS), objective), objective, reference, "trl", 4, Silent()), objective
    )
    loss = objective.loss(policy, batch)["dpo"] / PAIRS
    loss.backward()
    kind = transformers.AutoModelForCausalLM
    other = opened(tmp_path / "policy", kind, policy, objective.tokenizer, family="llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "policy")
    tokenizer.pad_token = tokenizer.eos_token
    trainer = trl.DPOTrainer(
        model=other,
        ref_model=opened(tmp_path / "reference", kind, reference, objective.tokenizer, family="llama"),
        args=trl.DPOConfig(output_dir=str(tmp_path / "out"), beta=0.3, **QUIET),
        train_dataset=datasets.Dataset.from_list([{"prompt": "the", "chosen": " cat", "rejected": " dog"}] * 4),
        processing_class=tokenizer,
    )
    ids, mask, answers = batch.input_ids, batch.padding_mask, torch.zeros_like(batch.input_ids)
    answers[:, 1:] = (batch.labels[:, :-1] != IGNORED).long()
    given = {"input_ids": ids, "attention_mask": mask.long(), "completion_mask": answers}
    expected = trainer.compute_loss(other.eval(), {name: tensor[CHOSEN_FIRST] for name, tensor in given.items()})
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert_same_gradients(policy, other)


def test_reward(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER | NO_DROPOUT).eval()
    batch = batch_of(tmp_path, paired_rows(PAIRS), objective)
    loss = objective.loss(scorer, batch)["reward"] / PAIRS
    loss.backward()
    kind = transformers.AutoModelForSequenceClassification
    other = opened(tmp_path / "scorer", kind, scorer, objective.tokenizer, family="llama")
    trainer = trl.RewardTrainer(
        model=other,
        args=trl.RewardConfig(output_dir=str(tmp_path / "out"), **QUIET),
        train_dataset=datasets.Dataset.from_list([{"chosen": "the cat", "rejected": "the dog"}] * 4),
        processing_class=transformers.AutoTokenizer.from_pretrained(tmp_path / "scorer"),
    )
    given = {"input_ids": batch.input_ids[CHOSEN_FIRST], "attention_mask": batch.padding_mask.long()[CHOSEN_FIRST]}
    expected = trainer.compute_loss(other.eval(), given)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert_same_gradients(scorer, other)
