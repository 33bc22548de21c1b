"""The place of a process by its environment: whole sets are read, others refused with what is wrong."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkit.errors import UsageError
from tfkit.parallel.ranks import Ranks, find_ranks, first_host, tasks_of_nodes

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node0", "MASTER_PORT": "29400"}
SLURM = {"SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_JOB_ID": "123456"}
SLURM |= {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_STEP_NODELIST": "gpu[07-09]"}


def test_without_a_launcher_there_is_one_process() -> None:
    """In a batch script of Slurm, outside of srun, too: its variables are of all tasks, and nobody else is started."""
    batch_script = {name: value for name, value in SLURM.items() if "STEP" not in name}
    for environment in ({}, {"MASTER_ADDR": "node0", "MASTER_PORT": "1"}, batch_script, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}):
        assert find_ranks(environment) == Ranks()
        assert find_ranks(environment).is_alone
        assert find_ranks(environment).is_first


def test_torchrun() -> None:
    two_nodes = {**TORCHRUN, "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}
    assert find_ranks(two_nodes) == Ranks(3, 4, 1, 2, 1, "node0", 29400, 2)
    assert find_ranks({**TORCHRUN, "LOCAL_WORLD_SIZE": "2"}).node == 1
    assert find_ranks({**SLURM, **two_nodes}).rank == 3, "torchrun within srun is nearer"
    assert find_ranks({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}).is_alone


def test_slurm() -> None:
    found = find_ranks(SLURM)
    assert (found.rank, found.size, found.local_rank, found.local_size, found.node, found.address) == (5, 6, 1, 2, 2, "gpu07")
    assert 20_000 <= found.port < 32_000
    assert find_ranks({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}).port == found.port
    assert find_ranks({**SLURM, "SLURM_JOB_ID": "123457"}).port != found.port, "two jobs may share a node"
    given_by_user = find_ranks({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (given_by_user.address, given_by_user.port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize(
    ("environment", "needed", "remedy"),
    [
        (TORCHRUN, TORCHRUN, "`ranks`"),
        (SLURM, ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"], "srun"),
    ],
    ids=["torchrun", "slurm"],
)
def test_a_part_of_a_set_is_refused_with_what_is_missing(environment: dict[str, str], needed: Iterable[str], remedy: str) -> None:
    for name in needed:
        with pytest.raises(UsageError, match=f"set, but not {name}: .*{remedy}"):
            find_ranks({key: value for key, value in environment.items() if key != name})


def test_numbers_that_contradict_each_other_are_named_with_their_values() -> None:
    of_torchrun = [{"RANK": "4"}, {"LOCAL_RANK": "4"}, {"WORLD_SIZE": "0"}, {"RANK": "0", "LOCAL_RANK": "1"}, {"MASTER_PORT": "0"}]
    of_torchrun += [{"LOCAL_WORLD_SIZE": "8"}, {"LOCAL_WORLD_SIZE": "1"}]
    of_slurm = [{"SLURM_PROCID": "6"}, {"SLURM_NODEID": "3"}, {"SLURM_STEP_TASKS_PER_NODE": "2(x4)"}, {"SLURM_LOCALID": "2"}]
    for environment, changes in ((TORCHRUN, of_torchrun), (SLURM, of_slurm)):
        for change in changes:
            with pytest.raises(UsageError, match="contradict each other") as error:
                find_ranks({**environment, **change})
            assert environment is SLURM or all(f"{name}={value}" in str(error.value) for name, value in change.items())


@pytest.mark.parametrize("value", ["-1", "x", "1.0", "٣", "9" * 400, "70000"])
def test_what_is_no_port_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"MASTER_PORT=.*no whole number"):
        find_ranks({**TORCHRUN, "MASTER_PORT": value})


def test_lists_of_nodes() -> None:
    hosts = {"n1": "n1", "n1,n2": "n1", "gpu[03-07,9]-ib,cpu1": "gpu03-ib", "a.b-c[1]": "a.b-c1", "x[10,12-14]": "x10"}
    assert {nodes: first_host(nodes) for nodes in hosts} == hosts
    for nodes in ("", "[1-3]", "a b", "n[x]"):
        with pytest.raises(UsageError, match="MASTER_ADDR"):
            first_host(nodes)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=5))
def test_tasks_of_nodes(parts: list[tuple[int, int]]) -> None:
    written = ",".join(str(tasks) if nodes == 1 else f"{tasks}(x{nodes})" for tasks, nodes in parts)
    assert tasks_of_nodes(written) == [tasks for tasks, nodes in parts for _ in range(nodes)]


@pytest.mark.parametrize("counts", ["", "x", "2(3)", "1(x9999999)", "2,,1"])
def test_what_is_no_list_of_counts_is_refused(counts: str) -> None:
    with pytest.raises(UsageError, match="no list of numbers"):
        tasks_of_nodes(counts)
