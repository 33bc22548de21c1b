"""The memory of ranks that share the weights is what their parts take: nothing that was whole for a moment stays."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_steps import LLAMA, Case, batches, stepper_of
from tiny_runs import Process
from two_ranks import free_port

from tfkit.parallel.agreement import ALONE, Peers
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import Ranks
from tfkit.parallel.sharding import Sharding  # noqa: F401  # its imports are not what is measured
from tfkit.training.device import keep_freed_memory

LARGE = Case(LLAMA, changes={"dim": 384, "hidden_dim": 1024, "decoder_layers": 20})  # 31 million numbers, 1.6 of them in a block


def peak_of_steps(peers: Peers) -> int:
    """Take three steps, and return the largest resident memory beyond what there was before the model, in MiB."""
    keep_freed_memory()
    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # which sets the peak to what there is now
    stepper = stepper_of(LARGE, peers)
    ranks = peers.ranks
    if ranks.size > 1:
        stepper.share_weights(ranks.size, reshard=True)
    for step in (1, 2, 3):
        stepper.take(step, batches(LARGE, step)[ranks.rank :: ranks.size], 1.0)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return (peak - before) >> 20


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_two_ranks_take_little_more_than_half_of_the_memory_of_one(tmp_path: Path) -> None:
    port = free_port()

    def program(rank: int, size: int) -> Any:
        def take(_: object) -> int:
            torch.set_num_threads(1)
            peers: Peers = ALONE
            if size > 1:
                peers = ProcessGroup.join(Ranks(rank, size, rank, size, 0, "127.0.0.1", port))
            (tmp_path / f"{rank}-{size}.json").write_text(json.dumps(peak_of_steps(peers)), encoding="utf-8")
            peers.agree(0)
            return 0

        return take

    ended = [process.wait() for process in [Process(tmp_path, [], program=program(rank, size)) for rank, size in ((0, 1), (0, 2), (1, 2))]]
    assert [done.code for done in ended] == [0, 0, 0], [done.err for done in ended]
    alone, *shared = (json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")) for name in ("0-1", "0-2", "1-2"))
    assert max(shared) < 0.71 * alone, (alone, shared)
