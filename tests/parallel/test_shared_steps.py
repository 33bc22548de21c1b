"""Ranks with sharded weights take the steps of one process, to the bit where each adds up two numbers at most, in half of its memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shared_steps
import torch
from shared_steps import ADAFACTOR, ADAMW, BERT, EXPERTS, GPT2, LLAMA, MUON, T5, UNTIED, Case, digest, model_of, take, take_on_rank
from tiny_files import read_json
from tiny_runs import Process
from two_ranks import ended, free_port

from tfkit.families import PRESETS
from tfkit.parallel.ranks import ALONE

BF16 = torch.bfloat16
EXACT = {
    "gpt2": Case(GPT2),
    "gpt2-untied-bf16": Case(GPT2, dtype=BF16, changes=UNTIED),
    "gpt2-muon": Case(GPT2, MUON, ema_decay=0.9),
    "gpt2-frozen-bf16": Case(GPT2, dtype=BF16, frozen=["embedding.*", "decoder.blocks.0.*"]),
    "gpt2-unfrozen": Case(GPT2, unfreeze_every=2),
    "gpt2-lora-bf16": Case(GPT2, dtype=BF16, lora=True),
    "llama-bf16": Case(LLAMA, dtype=BF16, ema_decay=0.9),
    "llama-muon-bf16": Case(LLAMA, MUON, BF16),
    "llama-adafactor": Case(LLAMA, ADAFACTOR, checkpointing=True),
    "t5": Case(T5),
    "t5-adafactor-bf16": Case(T5, ADAFACTOR, BF16),
    "t5-muon": Case(T5, MUON, changes=UNTIED),
    "bert-bf16": Case(BERT, dtype=BF16),
    "bert-kept": Case(BERT, reshard=False),
    "experts-bf16": Case(EXPERTS, dtype=BF16),
    "experts-muon": Case(EXPERTS, MUON, checkpointing=True),
}
FEW = ("gpt2-lora-bf16", "t5-adafactor-bf16", "experts-muon")
MORE = ("gpt2", "gpt2-unfrozen", "llama-muon-bf16", "bert-bf16", "experts-bf16")


def on_ranks(folder: Path, size: int, act: Callable[..., None], *more: Any) -> list[Any]:
    """Return what each of several processes writes into its file: act(rank, size, port, folder, *more)."""
    port = free_port()

    def program(rank: int) -> Callable[[list[str]], int]:
        return lambda _: act(rank, size, port, folder, *more) or 0

    ended([Process(folder, [], program=program(rank)) for rank in range(size)], 0)
    return [read_json(folder / f"rank-{rank}.json") for rank in range(size)]


@pytest.mark.parametrize(
    ("names", "steps"),
    [(FEW, 3), pytest.param(MORE, 3, marks=pytest.mark.thorough), pytest.param(tuple(EXACT), 20, marks=pytest.mark.slow)],
    ids=["few", "more", "all"],
)
def test_two_ranks_with_a_micro_batch_each_are_one_with_two_to_the_bit(names: tuple[str, ...], steps: int, tmp_path: Path) -> None:
    """Weights, their mean, the optimizer's state, and every loss; each rank holds half of them, and what is small."""
    torch.set_num_threads(1)
    cases = {name: EXACT[name] for name in names}
    first, second = on_ranks(tmp_path, 2, take_on_rank, 2, cases, steps)
    for name, case in cases.items():
        alone = take(case, steps)
        assert first[name]["losses"] == second[name]["losses"] == alone["losses"], name
        assert first[name]["norms"] == second[name]["norms"] == pytest.approx(alone["norms"], rel=1e-5), name
        shared = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert digest(shared) == digest(alone["tensors"]), name
        assert max(first[name]["held"], second[name]["held"]) < 0.62 * alone["held"], name
        if case.section is ADAMW:  # as a plan has it: half of weights and moments
            assert first[name]["held"] == pytest.approx(alone["held"] / 2, rel=0.05), name


# One preset of each family, some with two kinds of it, with and without a tied head.
FAMILIES = (
    *("transformer-2017-base", "gpt", "bert-base", "distilbert-base", "gpt2", "gpt3-125m", "t5-small", "t5-v1.1-small"),
    *("llama-7b", "llama3-8b", "mistral-7b-v0.1", "gemma2-2b", "smollm2-135m"),
    *("gemma3-1b", "olmo3-7b", "pythia-14m"),  # norms of queries and keys, two bases, and placements of norms, that those lack
    *("mixtral-8x7b", "olmoe-1b-7b", "qwen3-moe-30b-a3b"),
    *("roberta-base", "modernbert-base", "electra-small", "mpnet-base", "bart-base", "mbart-large-cc25", "deberta-v3-base"),
)


def tiny(preset: str, *, tied: bool) -> Case:
    values = PRESETS[preset][1]
    sizes: dict[str, Any] = {name: 2 for name in ("encoder_layers", "decoder_layers") if values.get(name)}
    sizes |= {"vocab_size": 64, "context_length": 12, "dim": 32, "num_heads": 4, "head_dim": 8, "hidden_dim": 48, "init": {"std": 0.3}}
    sizes |= {"num_kv_heads": 2} if values.get("num_kv_heads") else {}
    attention = dict(values.get("attention", {}))
    attention |= {"windows": [window and 4 for window in attention["windows"]]} if "windows" in attention else {}
    head = {name: value for name, value in values["head"].items() if name != "next_sentence"}
    head |= {"next_sentence": False} if values["head"]["kind"] == "masked_lm" else {}  # this loss does not read it
    mlp = dict(values["mlp"])
    mlp |= {"experts": {**mlp["experts"], "count": 4, "active": 2, "hidden_dim": 16}} if "experts" in mlp else {}
    return Case({**values, **sizes, "attention": attention, "mlp": mlp, "head": head | {"tied": tied}}, micro_batches=4)


STEP_1 = {
    **{f"{preset}-{'tied' if tied else 'untied'}": tiny(preset, tied=tied) for preset in FAMILIES for tied in (True, False)},
    "gpt2-kept": Case(GPT2, micro_batches=8, reshard=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("shards", [4, 2])
def test_gradients_of_four_ranks_are_those_of_one(shards: int, tmp_path: Path) -> None:
    """After one step AdamW's first moment is a tenth of the gradient. Four parts of three blocks' biases leave some ranks without any."""
    torch.set_num_threads(1)
    found = on_ranks(tmp_path, 4, take_on_rank, shards, STEP_1, 1)[0]
    for name, case in STEP_1.items():
        alone, shared = take(case, 1), torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert found[name]["losses"] == pytest.approx(alone["losses"], rel=1e-6)
        assert found[name]["norms"] == pytest.approx(alone["norms"], rel=1e-5)
        before = dict(model_of(replace(case)).named_parameters())
        for key, tensor in alone["tensors"].items():
            if key.endswith("/exp_avg"):
                torch.testing.assert_close(shared[key], tensor, rtol=0, atol=1e-7, msg=f"{name}: {key}")
            elif key in before:
                assert not torch.equal(shared[key], before[key]), f"{name}: {key} was not changed"


BLOCKS = Case(GPT2, changes={"dim": 128, "decoder_layers": 8})  # 1.6 million numbers, of them 8 thousand in the table
TABLE = Case(GPT2, changes={"dim": 128, "decoder_layers": 4, "vocab_size": 3001})  # 1.2 million, a third of them in the table


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("case", "most"), [(TABLE, 0.68), (BLOCKS, 0.58)], ids=["table", "blocks"])
def test_two_ranks_have_little_more_than_half_of_the_tensors_of_one(tmp_path: Path, case: Case, most: float) -> None:
    """Before the first step they have less: each its part of the blocks, a block, and the whole of what is around them, gathered once."""
    shared, alone = on_ranks(tmp_path, 2, shared_steps.peaks_on_rank, case), shared_steps.peaks(case, ALONE)
    assert max(peak for _, peak in shared) < most * alone[1], (alone, shared)
    assert all(beginning < 0.5 * peak for beginning, peak in shared), (alone, shared)
