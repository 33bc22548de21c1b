"""Recipes that several ranks cannot train yet are refused with a remedy, before anything is written."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
import torch
from tiny_files import wait_for
from tiny_runs import run_here, strike, write_corpus, write_recipe
from two_ranks import run_ranks, start_ranks

from tfkit.engine.request.rank_checks import gpu_of_rank, rank_device, rank_threads, require_divisible
from tfkit.engine.training_run.ranks_of_command import RankConnection
from tfkit.errors import MachineError, UsageError
from tfkit.parallel import rank_store
from tfkit.parallel.collectives import backends_of
from tfkit.parallel.ranks import Ranks
from tfkit.recipe import bundled_recipes, open_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.training.step import Stepper

RECIPE = "model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 3, batch_size: 4}\ncarbon: {enabled: false}\n"
STAGES = "stages:\n  a: {model: {preset: gpt2}, data: {train: [{stdlib: true}]}, training: {steps: 3}}\n"


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (RECIPE, ["training.batch_size=3"], "training.batch_size: 3 rows cannot be divided evenly among 2 ranks"),
        (RECIPE, ["training.micro_batch_size=4"], "training.micro_batch_size: 4 rows are 1 micro-batches of 4"),
        (RECIPE, ["--ranks", "4"], "--ranks 4: this process is already rank 0 of 2"),
        (STAGES, ["a.training.batch_size=3"], "stage a: training.batch_size: 3 rows cannot be divided evenly among 2 ranks"),
    ],
)
def test_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str], message: str) -> None:
    rank_0 = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in rank_0.items():
        monkeypatch.setenv(name, value)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text, encoding="utf-8")
    run_here(["pretrain", recipe, "--run", tmp_path / "run", *words]).exits(2, message)
    assert not (tmp_path / "run").exists()


def training_in(folder: Path) -> list[str]:
    return ["pretrain", str(write_recipe(folder, write_corpus(folder / "corpus"))), "--run", str(folder / "run")]


@pytest.mark.parametrize(("command", "address"), [("pretrain", "127.0.0.1"), ("evaluate", "127.0.0.1"), ("pretrain", "no-such.invalid")])
def test_a_rank_that_waits_for_others_says_so_and_obeys_a_signal(tmp_path: Path, command: str, address: str) -> None:
    """Rank 0 need not know the name of its machine."""

    def prepare() -> None:
        rank_store._LATE_SECONDS = 0.0
        os.environ["MASTER_ADDR"] = address

    words = training_in(tmp_path)
    if command == "evaluate":
        run_here([*words, "training.steps=1", "schedule.warmup_steps=0"]).exits(0)
        words = ["evaluate", "--from", str(tmp_path / "run"), "--data", str(tmp_path / "corpus")]
    [process] = start_ranks(tmp_path, words, {0: prepare}, alone=True)
    wait_for(lambda: process.files[1].exists() and "waiting at" in process.files[1].read_text())
    process.kill(signal.SIGTERM)
    done = process.wait().exits(143, "stopped by SIGTERM: no")
    assert re.search(rf"waiting at {address}:\d+ for rank 1 of 2, at most 1800 s in all", done.err)


def test_a_port_that_another_program_has_is_named(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        port = str(other.getsockname()[1])
        [process] = start_ranks(tmp_path, training_in(tmp_path), {0: lambda: os.environ.update(MASTER_PORT=port)}, alone=True)
        process.wait().exits(5, f"rank 0 cannot listen at port {port} of this machine (another program listens there): set MASTER_PORT")


def test_a_rank_that_waits_for_an_answer_obeys_a_signal(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        values = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": str(silent.getsockname()[1])}
        [process] = start_ranks(tmp_path, training_in(tmp_path), {0: lambda: os.environ.update(values)}, alone=True)
        asking, waiting = (silent.accept()[0] for _ in range(2))  # the first only asks whether somebody listens
        with asking, waiting:
            process.kill(signal.SIGTERM)
            process.wait().exits(143)


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_rank_that_is_asked_to_stop_and_finds_another_gone_says_that_it_was_stopped(tmp_path: Path, is_asked: bool) -> None:
    def leave() -> None:
        Stepper._accumulate = lambda *_: os._exit(143)

    first, _ = run_ranks(
        tmp_path / "run", Path(training_in(tmp_path)[1]), faults={1: leave} | ({0: strike(signal.SIGTERM, 1)} if is_asked else {})
    )
    if is_asked:
        assert first.code == 143
        said, command = first.err.splitlines()[-2:]
        assert (said, command.split()[:2]) == ("stopped by SIGTERM: no step was taken yet", ["tfkit", "pretrain"])
    else:
        assert first.code == 9
        assert re.search(r"rank 0 lost another rank within a step \(.*\): its process ended, hangs, or cannot be reached", first.err)
        assert "GLHF" not in first.err
        assert "third_party" not in first.err
    status = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["status"]
    assert status == ("stopped" if is_asked else "failed")


def test_every_objective_is_dealt() -> None:
    for recipe in bundled_recipes():
        source = open_recipe(recipe.name)
        if source.has_stages:
            continue
        words = ["training.batch_size=32", "training.micro_batch_size=null"]
        require_divisible(source.read(parse_overrides(words)), 2)
        require_divisible(source.read(parse_overrides([*words, "parallel.shard=2"])), 2)


def test_a_run_that_is_resumed_is_offered_other_numbers_of_ranks(tmp_path: Path) -> None:
    """And no other sizes, which it would refuse."""
    checked = open_recipe(training_in(tmp_path)[1]).read(parse_overrides(["training.batch_size=12", "training.micro_batch_size=2"]))
    for ranks, remedy in ((2, None), (4, "start 1 or 2 or 3"), (5, "start 1 or 2 or 3"), (7, "start 2 or 3 or 6")):
        if remedy is None:
            require_divisible(checked, ranks, is_resumed=True)
        else:
            with pytest.raises(UsageError, match=f"a run that is resumed keeps their sizes: {remedy}$"):
                require_divisible(checked, ranks, is_resumed=True)


@pytest.mark.thorough
def test_a_dry_run_plans_ranks_and_starts_none(tmp_path: Path) -> None:
    words = [*training_in(tmp_path), "--dry-run", "training.micro_batch_size=1", "--json"]
    one, two = (run_here([*words, "--ranks", ranks]).exits(0).document["estimate"] for ranks in ("1", "2"))
    assert (one["cluster"], two["cluster"]["ranks"], two["cluster"]["rows_per_rank"]) == (None, 2, 2)
    assert (one["steps"], one["flops"]) == (two["steps"], two["flops"])
    assert two["memory_bytes"] == two["cluster"]["memory_bytes"]["replicated"]
    run_here([*words[:-1], "--ranks", "2"]).exits(0, "each of 2 ranks needs this memory, and takes 2 rows of a step")
    run_here([*words, "--ranks", "3"]).exits(2, "4 rows cannot be divided evenly among 3 ranks")
    assert not (tmp_path / "run").exists()


def test_threads_of_a_rank() -> None:
    assert rank_threads(None, Ranks()) is None
    assert rank_threads(3, Ranks(0, 2, 0, 2)) == 3
    assert rank_threads(None, Ranks(0, 4096, 0, 4096)) == 1


def test_the_device_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU of its number on its machine; the only one, where the starter gives each process its own; without GPUs as asked."""
    third = Ranks(7, 8, 3, 4, 1)
    assert [gpu_of_rank(third, visible) for visible in (4, 8, 1)] == [3, 3, 0]
    with pytest.raises(MachineError, match="4 ranks are on this machine, and it has 2 GPUs"):
        gpu_of_rank(third, 2)
    with pytest.raises(UsageError, match="device=cuda:1: every rank needs a GPU of its own; give device=cuda"):
        rank_device("cuda:1", third)
    assert [rank_device(asked, third) for asked in ("cpu", "mps")] == ["cpu", "mps"]
    assert rank_device("cuda:1", Ranks()) == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [rank_device(asked, third) for asked in (None, "auto", "cuda", "cpu")] == ["cuda:3", "cuda:3", "cuda:3", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [rank_device(asked, third) for asked in (None, "auto")] == [None, "auto"]


def test_the_backends_of_the_ranks() -> None:
    """Agreements are tensors of the CPU, also where the numbers of GPUs go over NCCL."""
    assert (backends_of(False), backends_of(True)) == ("gloo", "cpu:gloo,cuda:nccl")
    with pytest.raises(UsageError, match="device=mps: several ranks compute on processors or on NVIDIA's GPUs"):
        RankConnection(Ranks(0, 2, 0, 2)).peers(torch.device("mps"))


def test_a_part_of_the_variables_is_an_error_of_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    run_here(["pretrain", "demo"]).exits(2, "WORLD_SIZE=2 is set, but not RANK")
