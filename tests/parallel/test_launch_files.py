"""The files of tfkit launch: shells and YAML parsers read them, and the command in them is the one that was meant, whatever its names."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tiny_runs import kept, run_here, write_corpus, write_recipe

from tfkit.engine.tools.launching import FILES, LaunchedTraining
from tfkit.errors import UsageError

HOSTILE = ["a b", "it's", '"quoted"', "$(touch x)", "`x`", "a;b", "a&b|c>d", "# no comment", "- list: {x}", "!!tag", "Ünï🙂"]
HOSTILE += ["\\", "%s", "--"]
WORDS = ("pretrain", *HOSTILE, "--run", "runs/it's $HOME", "--resume")


def training(nodes: int = 3, ranks: int = 2, words: tuple[str, ...] = WORDS) -> LaunchedTraining:
    return LaunchedTraining(words, "GPT-2 :evil/name_" + "x" * 80, nodes, ranks)


def arguments(script: str, program: str, tmp_path: Path) -> list[str]:
    """Run a script in bash with a program that only prints its arguments, and return these."""
    fake = tmp_path / "bin" / program
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f'#!{sys.executable}\nimport sys\nprint("\\0".join(sys.argv[1:]), end="")\n', encoding="utf-8")
    fake.chmod(0o755)
    of_node = {"NODE_RANK": "1", "MASTER_ADDR": "n0", "SLURM_CPUS_PER_TASK": "4"}
    of_node |= {"SKYPILOT_NODE_RANK": "2", "SKYPILOT_NODE_IPS": "n0\nn1\nn2"}
    environment = {**os.environ, **of_node, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    return done.stdout.split("\0")


def yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def directives(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script, re.MULTILINE))


@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_bash_accepts_the_script_for_one_node(kind: str) -> None:
    """That for three nodes runs in the next tests."""
    done = subprocess.run(["bash", "-n"], input=FILES[kind](training(1)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_torchrun_gets_the_words_as_they_are(tmp_path: Path) -> None:
    found = arguments(FILES["torchrun"](training()), "torchrun", tmp_path)
    assert found[found.index("-m") :] == ["-m", "--", "tfkit", *WORDS]
    assert found[: found.index("-m")] == shlex.split("--nnodes 3 --nproc-per-node 2 --node-rank 1 --master-addr n0 --master-port 29500")
    assert not (tmp_path / "x").exists()
    command = ["bash", "-c", FILES["torchrun"](training())]
    alone = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, check=False)
    assert b"NODE_RANK: the number of this node" in alone.stderr


def test_slurm_gets_the_words_as_they_are(tmp_path: Path) -> None:
    script = FILES["slurm"](training())
    found = arguments(script, "srun", tmp_path)
    assert found[found.index("python") :] == ["python", "-m", "tfkit", *WORDS, "--threads", "4"]
    read = directives(script)
    assert (read["nodes"], read["ntasks-per-node"]) == ("3", "2")
    assert re.fullmatch(r"[a-z0-9-]{1,63}", read["job-name"])
    first_command = re.search(r"^[^#\n]", script, re.MULTILINE)
    assert script.rindex("\n#SBATCH") < first_command.start(), "sbatch reads no directive behind the first command"


def test_skypilot_gets_the_words_as_they_are(tmp_path: Path) -> None:
    document = yaml(FILES["skypilot"](training()))
    assert document["num_nodes"] == 3
    assert document.keys() >= {"name", "workdir", "resources", "setup", "run"}
    found = arguments(document["run"], "torchrun", tmp_path)
    assert found[found.index("-m") :] == ["-m", "--", "tfkit", *WORDS]
    assert shlex.join(found[: found.index("-m")]) == ("--nnodes 3 --nproc-per-node 2 --node-rank 2 --master-addr n0 --master-port 29500")


def test_kubeflow_gets_the_words_as_they_are() -> None:
    document = yaml(FILES["kubeflow"](training()))
    trainer = document["spec"]["trainer"]
    assert trainer["command"] == ["torchrun", "-m", "--", "tfkit", *WORDS]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 2)
    assert (document["kind"], document["spec"]["runtimeRef"]["name"]) == ("TrainJob", "torch-distributed")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"])


def test_words_that_cannot_be_printed_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be printed"):
        training(words=("pretrain", "a\nb"))


def test_the_command_checks_the_recipe_first(tmp_path: Path) -> None:
    recipe = tmp_path / "my recipe.yaml"
    one = "model: {preset: gpt2}, data: {train: [{stdlib: true}]}, training: {steps: 3, batch_size: 8}"
    recipe.write_text(f"{{{one}}}", encoding="utf-8")
    done = run_here(["launch", "slurm", recipe, "training.steps=4", "--nodes", "2", "--ranks-per-node", "2"]).exits(0)
    assert (done.out.splitlines()[0], done.err) == ("#!/bin/bash", "")
    assert f"python -m tfkit pretrain '{recipe}' training.steps=4 --run runs/my-recipe --resume" in done.out
    run_here(["launch", "slurm", recipe, "--nodes", "3"]).exits(2, "8 rows cannot be divided evenly among 3 ranks")
    run_here(["launch", "pbs", recipe]).exits(2, "give one of torchrun, slurm, skypilot, kubeflow")
    run_here(["launch", "torchrun", recipe, "parallel.shard=3", "--nodes", "2"]).exits(2)
    recipe.write_text(f"stages:\n  a: {{{one}}}\n  b: {{{one}}}\n", encoding="utf-8")
    torchrun = ["launch", "torchrun", recipe, "--nodes", "2"]
    assert f"tfkit pretrain '{recipe}' --run runs/my-recipe --resume" in run_here(torchrun).exits(0).out
    run_here([*torchrun, "b.training.batch_size=3"]).exits(2, "3 rows cannot be divided evenly among 2 ranks")


@pytest.mark.parametrize("has_gpus", [False, True])
def test_skypilot_reads_its_file(tmp_path: Path, *, has_gpus: bool) -> None:
    """By its own package (`pip install skypilot`; checked with 0.14.1)."""
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
    (tmp_path / "task.yaml").write_text(FILES["skypilot"](replace(training(), has_gpus=has_gpus)), encoding="utf-8")
    task = sky.Task.from_yaml(str(tmp_path / "task.yaml"))
    assert (task.num_nodes, task.name) == (3, training().slug)
    assert not has_gpus or [one.accelerators for one in task.resources] == [{"H100": 2}]


@pytest.mark.parametrize("has_gpus", [False, True])
def test_the_models_of_kubeflow_trainer_read_its_file(*, has_gpus: bool) -> None:
    """By its package of models (`pip install kubeflow-trainer-api`; checked with 2.3.0), which drop a field that they do not know."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed")
    document = yaml(FILES["kubeflow"](replace(training(), has_gpus=has_gpus)))
    job = models.TrainerV1alpha1TrainJob.from_dict(document)
    assert job.to_dict() == document


@pytest.mark.parametrize(("words", "each"), [((), "1"), (("--ranks-per-node", "4"), "4"), (("--gpus-per-node", "2"), "2")])
def test_each_gpu_has_a_process(words: tuple[str, ...], each: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 3, batch_size: 8}\n", encoding="utf-8")
    gpus = "--gpus-per-node" in words
    found = {kind: run_here(["launch", kind, recipe, "--nodes", "2", *words]).exits(0).out for kind in FILES}
    assert f"--nproc-per-node {each} " in found["torchrun"]
    slurm = directives(found["slurm"])
    assert (slurm["ntasks-per-node"], slurm.get("gpus-per-node")) == (each, each if gpus else None)
    resources = yaml(found["skypilot"])["resources"]
    assert resources == ({"accelerators": f"H100:{each}"} if gpus else {"cpus": "8+"})
    trainer = yaml(found["kubeflow"])["spec"]["trainer"]
    assert trainer["numProcPerNode"] == int(each)
    assert trainer.get("resourcesPerNode") == ({"limits": {"nvidia.com/gpu": int(each)}} if gpus else None)
    run_here(["launch", "slurm", recipe, "--gpus-per-node", "2", "--ranks-per-node", "4"]).exits(2, "each process has its own GPU")


@pytest.mark.slow
def test_the_script_of_torchrun_trains_for_real(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    script = run_here(["launch", "torchrun", recipe, "--ranks-per-node", "2", "--run", tmp_path / "run"]).exits(0).out
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2]), "MASTER_PORT": "29763"}
    for _ in range(2):  # the second time it repeats the result
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "checkpoint " in done.stdout
    assert kept(tmp_path / "run")[-1] == "step-000012"
