"""Plans for ranks and GPUs that this machine does not have: traffic and memory, errors, and time and energy from data sheets."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_plans import recipe_of

import tfkit
from tfkit.cli.plan import lines
from tfkit.errors import MachineError, UsageError
from tfkit.training import free_memory
from tfkit.training.peak_speed import GPU_PEAKS

pytestmark = pytest.mark.usefixtures("in_place")

ONE_LAYER = {"model.decoder_layers": 1}


def near(traffic: float) -> Any:
    """Approximate the traffic of weights and gradients: ranks also exchange a few numbers, and pad uneven shards."""
    return pytest.approx(traffic, rel=0.01)


def root_bytes(cluster: dict[str, Any]) -> int:
    """Return the bytes of the root parameters: they are gathered once for the forward and the backward pass."""
    size: int = cluster["gathered_units"]["rest_bytes"]
    return size


def test_machines_like_this_one_divide_the_batch_and_reduce_gradients() -> None:
    document = recipe_of("causal_lm", batch_size=8, micro_batch_size=4, steps=1_000_000)
    one, four = (tfkit.plan(document, ONE_LAYER, ranks=ranks, threads=1) for ranks in (1, 4))
    assert one.cluster is None
    cluster = four.cluster
    assert (cluster["ranks"], cluster["rows_per_rank"], cluster["layout"], four.micro_batch_size) == (4, 2, "replicated", 2)
    assert cluster["traffic_bytes_per_step"]["replicated"] == near(2 * 0.75 * 4 * one.parameters)  # a ring of four
    assert cluster["traffic_bytes_per_step"]["sharded"] == near(0.75 * ((4 + 2 * 4) * one.parameters - root_bytes(cluster)))
    assert cluster["memory_bytes"]["sharded"] < cluster["memory_bytes"]["replicated"] == four.memory_bytes
    assert one.flops == four.flops
    assert replace(one, table_seconds={"start": 3.0, "steps": 1.0}).fraction_after_start == 0.25
    sent = 1_000_000 * cluster["traffic_bytes_per_step"]["replicated"] / 1.25e9  # seconds, which do not depend on this machine's speed
    assert one.seconds.likely / 4 < four.seconds.likely - sent < one.seconds.likely
    assert four.energy_kwh.likely > one.energy_kwh.likely  # because of the traffic
    assert "never compared" in four.assumptions["seconds"]
    uneven = recipe_of("causal_lm", batch_size=12, micro_batch_size=4)  # 6 rows per rank, which are no whole number of micro-batches
    assert tfkit.plan(uneven, ONE_LAYER, ranks=2, threads=1).micro_batch_size == 3


@pytest.mark.thorough
def test_a_plan_uses_the_mesh_of_the_recipe() -> None:
    document = recipe_of("causal_lm", batch_size=8, micro_batch_size=1)

    def cluster(shard: int, *, reshard: bool = True) -> tuple[str, int, float, int]:
        changes = {"parallel.shard": shard, "parallel.reshard": reshard}
        planned = tfkit.plan(document, changes, ranks=4, threads=1).cluster
        return planned["layout"], planned["memory_bytes"]["sharded"], planned["traffic_bytes_per_step"]["sharded"], root_bytes(planned)

    numbers = tfkit.plan(document, threads=1).parameters
    halves, quarters, kept = cluster(2), cluster(4), cluster(4, reshard=False)
    assert [mesh[0] for mesh in (cluster(1), halves, quarters)] == ["replicated", "sharded", "sharded"]
    assert halves[1] - quarters[1] == pytest.approx(16 * numbers / 4, rel=0.05)  # weights, gradients and two moments
    assert quarters[2] == near(0.75 * 2 * ((4 + 2 * 4) * numbers - quarters[3]))  # two micro-batches per rank
    between_replicas = 2 * 2 * 0.5 * 4 * numbers / 2  # an all-reduce
    assert halves[2] == near(0.5 * 2 * ((4 + 2 * 4) * numbers - halves[3]) + between_replicas)
    assert kept[2] == near(0.75 * (4 + 2 * 4) * numbers)
    with pytest.raises(UsageError, match=r"parallel\.shard: 4 ranks are not a multiple of the 3"):
        cluster(3)


@pytest.mark.thorough
def test_a_plan_for_other_machines_is_not_bound_by_the_memory_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of the model takes 16 bytes a weight, of which this machine has 10: a quarter fits."""
    document = recipe_of("causal_lm", batch_size=8, micro_batch_size=1)
    weights = tfkit.plan(document, threads=1).parameters
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(f"MemAvailable: {10 * weights // 1024} kB\n", encoding="ascii")
    monkeypatch.setattr(free_memory, "_ROOT", tmp_path)
    for changes, ranks in (({}, 1), ({}, 4), ({"parallel.shard": 1}, 2)):
        with pytest.raises(MachineError, match=r"weights need .* GB of memory with their gradients"):
            tfkit.plan(document, changes, ranks=ranks, threads=1)
    assert tfkit.plan(document, {"parallel.shard": 4}, ranks=4, threads=1).cluster is not None
    for changes, ranks in (({}, 1), ({}, 4), ({"parallel.shard": 2}, 4)):
        assert tfkit.plan(document, changes, ranks=ranks, gpu="h100", threads=1).cluster is not None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_plan_of_a_large_model_needs_little_memory(tmp_path: Path, place: Path) -> None:
    """104 GB of weights, gradients and optimizer state, planned for GPUs within the 0.4 GB that docs/cluster.md promises."""
    recipe = {**recipe_of("causal_lm", batch_size=8), "model": {"preset": "llama2-7b", "context_length": 32}, "parallel": {"shard": 4}}
    recipe["tokenizer"] = {"variant": "smollm2", "vocab_size": 320}
    (tmp_path / "large.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    words = ["plan", tmp_path / "large.yaml", "--gpu", "h100", "--ranks", "4", "--json"]
    code = "import sys; from pathlib import Path; from tfkit.__main__ import main; done = main(sys.argv[1:]); "
    code += "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0], file=sys.stderr); sys.exit(done)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] > 6e9
    assert int(done.stderr.split()[-1]) * 1024 < 0.5e9


def test_a_gpu_is_planned_from_its_data_sheet() -> None:
    changes = {**ONE_LAYER, "carbon.pue": 1.5, "carbon.intensity_g_per_kwh": 100}
    plan = tfkit.plan(recipe_of("causal_lm", steps=10**7), changes, gpu="h100", threads=1)
    assert plan.cluster["fits"] is True
    assert plan.basis == "table"
    assert plan.seconds.likely > plan.flops["total"] / 989e12 / 0.35
    assert plan.energy_kwh.likely == pytest.approx(plan.seconds.likely * 0.85 * 700 * 1.5 / 3.6e6)
    assert plan.emissions_g.high == pytest.approx(100 * plan.energy_kwh.high)
    assert (plan.full_power.watts, plan.full_power.hours) == (700, plan.seconds.likely / 3600)
    assert sum(plan.table_seconds.values()) == pytest.approx(plan.seconds.likely)
    two = tfkit.plan(recipe_of("causal_lm", steps=10**7), ONE_LAYER | {"parallel.shard": 2}, gpu="l4", ranks=2, threads=1)
    assert two.full_power.watts == 2 * 72
    assert two.seconds.likely > plan.seconds.likely / 2
    update = 10**7 * two.trained_parameters * 32 / 300e9  # seconds, divided between the two ranks
    assert two.table_seconds["steps"] == pytest.approx(two.flops["total"] / 2 / GPU_PEAKS["L4"] / 0.35 + update / 2)
    sent, numbers = two.cluster["sent_bytes"]["sharded"], two.parameters
    assert sent["reduce-scatter"] == near(0.5 * 4 * numbers)
    assert sent["all-gather"] == near(0.5 * (2 * 4 * numbers - root_bytes(two.cluster)))  # twice, except for the root parameters
    text = "\n".join(lines(two))
    assert re.search(r"^ranks +2 of \d+ rows each, sharded$", text, re.MULTILINE), text
    assert re.search(r"^ +traffic +.*reduce-scatter [\d.]+ .*\n +gathered +1 blocks one at a time", text, re.MULTILINE), text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probe": -1}, "probe=-1: the number of steps must be at least 0"),
        ({"ranks": 0}, "ranks=0: the number of ranks must be at least 1"),
        ({"gpu": "tpu"}, "gpu=tpu: unknown GPU; choose one of h100, a100, l4, mi300x"),
        ({"gpu": "l4", "probe": 2}, "gpu=l4 plans for another"),
        ({"ranks": 3}, "a batch of 4 rows cannot be divided evenly among 3 ranks: use 2 or 4 ranks"),
        ({"ranks": 9}, "use 4 ranks"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tfkit.plan(recipe_of("causal_lm"), **arguments)
