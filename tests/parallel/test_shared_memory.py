"""The tensors of ranks with sharded weights are their parts, a block and what is around the blocks: what is whole does not stay."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_steps import GPT2, Case, batches, stepper_of
from tiny_runs import Process
from two_ranks import ended, free_port

from tfkit.engine.planning.tensor_meter import TensorMeter
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import ALONE, Peers, Ranks
from tfkit.training.model_sharder import shard_models

BLOCKS = Case(GPT2, changes={"dim": 128, "decoder_layers": 8})  # 1.6 million numbers, of them 8 thousand in the table
TABLE = Case(GPT2, changes={"dim": 128, "decoder_layers": 4, "vocab_size": 3001})  # 1.2 million, a third of them in the table


def peaks(case: Case, peers: Peers) -> tuple[int, int]:
    """Return the most bytes of tensors at once before the first step, and in a step, once there is the optimizer's state.

    The least of several steps: a busy thread of gloo may drop what was sent late.
    """
    ranks = peers.ranks
    with TensorMeter() as meter:
        stepper = stepper_of(case, peers)
        if ranks.size > 1:
            shard_models(stepper, ranks.size, reshard=True)
        beginning = meter.mark()
        found = []
        for step in range(1, 5):
            meter.mark()
            stepper.take(step, batches(case, step)[ranks.rank :: ranks.size], 1.0)
            found.append(meter.mark())
        return beginning, min(found[1:])


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("case", "most"), [(TABLE, 0.68), (BLOCKS, 0.58)], ids=["table", "blocks"])
def test_two_ranks_have_little_more_than_half_of_the_tensors_of_one(tmp_path: Path, case: Case, most: float) -> None:
    """Before the first step they have less: each its part of the blocks, a block, and the whole of what is around them, gathered once."""
    port = free_port()

    def program(rank: int) -> Any:
        def take(_: object) -> int:
            torch.set_num_threads(1)
            group = ProcessGroup.join(Ranks(rank, 2, rank, 2, 0, "127.0.0.1", port))
            (tmp_path / f"{rank}.json").write_text(json.dumps(peaks(case, group)), encoding="utf-8")
            group.agree(0)
            return 0

        return take

    ended([Process(tmp_path, [], program=program(rank)) for rank in (0, 1)], 0)
    shared = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    alone = peaks(case, ALONE)
    assert max(peak for _, peak in shared) < most * alone[1], (alone, shared)
    assert all(beginning < 0.5 * peak for beginning, peak in shared), (alone, shared)
