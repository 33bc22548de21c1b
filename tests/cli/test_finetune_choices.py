"""tfkit finetune for multiple choice: a GPT that was pretrained on text gets a score of choices, and entries for three new tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_files import write_rows
from tiny_layouts import GPT2_LAYOUT
from tiny_runs import finetune, hashes, pretrain, records, run_tfkit
from transformers import AutoTokenizer, OpenAIGPTDoubleHeadsModel

from tfkit.hub import load
from tfkit.hub.growing import with_more_entries
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build

MARKS = ["_start_", "_delimiter_", "_classify_"]
TASK = """
# For a test.
model: {from: gpt, dropout: {embedding: 0, attention: 0, residual: 0}}
data: {train: [{path: rows.jsonl, columns: {choices: [first, second]}}], validation: 0.2}
objective: {kind: multiple_choice}
optimizer: {lr: 1e-2}
training: {steps: 4, batch_size: 8, precision: fp32, log_every: 2}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """A tiny GPT of ours, rows with two answers each, and a recipe for them."""
    gpt = ["model={preset: gpt, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 32}", "tokenizer={kind: bpe_eow, vocab_size: 90}"]
    pretrain(base / "gpt", base / "tiny.yaml", *gpt, "training.steps=2", "evaluation.every=null").exits(0)
    random, rows = np.random.default_rng(3), []
    for number in range(40):
        goal, first, second = (" ".join(random.choice(["the", "cat", "dog", "sat"], int(random.integers(1, 6)))) for _ in range(3))
        rows.append({"goal": goal, "first": first, "second": second, "label": number % 2})
    write_rows(base / "rows.jsonl", rows)
    (base / "task.yaml").write_text(TASK, encoding="utf-8")
    return base


def test_three_entries_are_added_and_the_others_stay(place: Path, in_place: None) -> None:
    new = "newly initialized: head.choice.weight, head.choice.bias, the last 3 entries of the vocabulary"
    finetune("run", "optimizer.lr=1e-30", "optimizer.weight_decay=0").exits(0, new)
    run_tfkit(place, ["finetune", "run/recipe.yaml", "--run", "again", "--threads", "1"]).exits(0)
    assert hashes(place / "again", 4) == hashes(place / "run", 4)
    before, after = load(place / "gpt"), load(place / "run")
    size = before.config.vocab_size
    grown = {"vocab_size": size + 3, "head": after.config.head, "dropout": after.config.dropout}
    assert after.config == before.config.model_copy(update=grown)
    assert [after.codec.backend.token_to_id(token) for token in MARKS] == [size, size + 1, size + 2]
    for name, tensor in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name][: len(tensor)], tensor, atol=1e-20, rtol=0, msg=name)
    assert float(after.model.state_dict()["embedding.tokens.weight"][size:].std()) > 0.01
    text = ["the cat sat on Straße"]
    assert after.codec.encode_texts(text) == before.codec.encode_texts(text)
    theirs = AutoTokenizer.from_pretrained(after.folder)
    assert theirs(text)["input_ids"] == after.codec.encode_texts(text)
    assert theirs.convert_tokens_to_ids(MARKS) == [size, size + 1, size + 2]
    ids = torch.tensor([[size, *after.codec.encode_texts(text)[0], size + 2]])
    with torch.no_grad():
        found = OpenAIGPTDoubleHeadsModel.from_pretrained(after.folder).eval()(ids)
        output = after.model(ids)
    torch.testing.assert_close(output.logits, found.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.extra_logits[0], found.mc_logits.reshape(1), atol=1e-5, rtol=0)


@pytest.mark.thorough
def test_the_scores_of_such_a_run_and_its_end(in_place: None) -> None:
    finetune("scored", "objective.start=null").exits(0, "the last 2 entries of the vocabulary")
    (scores,) = [record["evaluation"] for record in records(Path("scored")) if "evaluation" in record]
    assert scores["loss"] == pytest.approx(scores["choices"] + 0.5 * scores["lm"])
    assert "newly initialized" not in finetune("on", "--from", "scored", "objective.start=null").exits(0).err


@pytest.mark.parametrize("tied", [True, False])
def test_old_entries_have_the_same_logits_in_a_larger_vocabulary(tied: bool) -> None:
    sizes = {"vocab_size": 31, "context_length": 8, "decoder_layers": 2, "dim": 12, "num_heads": 2}
    config = ModelConfig.model_validate(GPT2_LAYOUT | sizes | {"init": {"std": 0.3}, "head": {"tied": tied, "bias": True}})
    small = build(config, seed=1).eval()
    large = with_more_entries(small, 36, seed=2)
    assert large.config.vocab_size == 36
    assert not large.training
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(large(ids).logits[..., :31], small(ids).logits)
    new = {name: tensor[31:] for name, tensor in large.state_dict().items() if len(tensor) == 36}
    assert new.keys() == {"embedding.tokens.weight", "head.bias"} | (set() if tied else {"head.output.weight"})
    assert float(new["embedding.tokens.weight"].detach().std()) == pytest.approx(0.3, rel=0.4)
    large(ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in large.parameters())
