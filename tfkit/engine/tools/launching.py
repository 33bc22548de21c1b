"""Files that start a training on a cluster: shell scripts for torchrun and Slurm, YAML for SkyPilot and Kubeflow Trainer.

The command in each file starts a run or resumes it, so that an interrupted job can be submitted again unchanged. This module does not
import torch.
"""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfkit.engine.request.rank_checks import require_divisible
from tfkit.errors import UsageError
from tfkit.recipe import open_recipe, read_recipes
from tfkit.recipe.reading.overrides import Overrides

_PORT = 29500  # the default port of torchrun
_STOP_SECONDS = 300  # from the signal to stop to the end of a Slurm job, for finishing the step and saving a checkpoint


@dataclass(frozen=True)
class LaunchedTraining:
    """A training on `nodes` machines, each with `ranks_per_node` processes."""

    words: tuple[str, ...]  # the arguments of the command `tfkit`
    name: str  # the name of the recipe
    nodes: int
    ranks_per_node: int
    has_gpus: bool = False  # whether each process has a GPU of its own; if not, the training runs on processors

    def __post_init__(self) -> None:
        if bad := [word for word in self.words if not word.isprintable()]:
            raise UsageError(
                f"{bad[0]!r}: has characters that cannot be printed, and cannot be written safely to a cluster's file; rename it"
            )

    @property
    def command(self) -> str:
        """The arguments of torchrun from -m on, quoted for a shell. Without --, torchrun would read --run as its option --run-path."""
        return shlex.join(["-m", "--", "tfkit", *self.words])

    @property
    def slug(self) -> str:
        """The name of the recipe, changed so that Kubernetes and Slurm accept it as the name of a job."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:50].strip("-") or "tfkit"

    @property
    def remarks(self) -> str:
        """The comment at the beginning of each file, which names the requirements of the machines."""
        gpus, network = (", each with a GPU", ", and NCCL_SOCKET_IFNAME") if self.has_gpus else ("", "")
        return (
            f"# tfkit on {self.nodes} x {self.ranks_per_node} processes{gpus}. Submitted again, it continues from the newest checkpoint.\n"
            "# All nodes need tfkit, the recipe and its data at the same paths, and the run folder on a disk that they share.\n"
            f"# If the processes do not find each other, export GLOO_SOCKET_IFNAME=<the network's name, as `ip link` shows it>{network}.\n"
        )


def torchrun_file(training: LaunchedTraining) -> str:
    """Return a shell script that must be started on every node."""
    one = training.nodes == 1
    needs = "" if one else ': "${NODE_RANK:?the number of this node, from 0}" "${MASTER_ADDR:?the name of node 0}"\n'
    how = "" if one else "# On each node:  NODE_RANK=<0, 1, ...> MASTER_ADDR=<name of node 0> bash THIS_FILE\n"
    node, address = ("0", "127.0.0.1") if one else ("$NODE_RANK", "$MASTER_ADDR")
    return (
        f"#!/bin/bash\n{training.remarks}{how}set -eu\n{needs}"
        f"exec torchrun --nnodes {training.nodes} --nproc-per-node {training.ranks_per_node} "
        f'--node-rank "{node}" --master-addr "{address}" --master-port "${{MASTER_PORT:-{_PORT}}}" {training.command}\n'
    )


def slurm_file(training: LaunchedTraining) -> str:
    """Return a script for sbatch, in which srun starts the processes; they find their ranks in Slurm's environment variables."""
    command = ["-m", "tfkit", *training.words]
    gpus = f"#SBATCH --gpus-per-node={training.ranks_per_node}\n" if training.has_gpus else ""
    return (
        f"#!/bin/bash\n#SBATCH --job-name={training.slug}\n#SBATCH --nodes={training.nodes}\n"
        f"#SBATCH --ntasks-per-node={training.ranks_per_node}\n"
        f"{gpus}"
        "#SBATCH --cpus-per-task=8          # fill in: the cores of a node, divided by its processes\n"
        "#SBATCH --time=24:00:00            # fill in\n"
        "##SBATCH --partition=NAME          # fill in, and remove one #\n"
        "##SBATCH --account=NAME            # fill in, and remove one #\n"
        f"#SBATCH --signal=TERM@{_STOP_SECONDS}          # seconds before the end: the run saves and ends with 143\n"
        "#SBATCH --requeue --open-mode=append\n"
        f"{training.remarks}set -eu\n"
        "# source .venv/bin/activate        # fill in: the environment that has tfkit\n"
        f'srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" python {shlex.join(command)} --threads "$SLURM_CPUS_PER_TASK"\n'
    )


def skypilot_file(training: LaunchedTraining) -> str:
    """Return a task for `sky launch` or for `sky jobs launch`, which restarts the task after a preemption."""
    resources = f"accelerators: H100:{training.ranks_per_node}  # fill in: the kind" if training.has_gpus else "cpus: 8+  # fill in"
    return (
        f"{training.remarks}"
        f"name: {training.slug}\nnum_nodes: {training.nodes}\nworkdir: .  # has the recipe and its data\n"
        f"resources:\n  {resources}\n"
        "# file_mounts:  # fill in: a bucket at the run folder, so that a new machine finds the checkpoints\n"
        "setup: |\n  pip install .  # fill in: how tfkit is installed\n"
        "run: |\n"
        '  MASTER_ADDR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)"\n'
        f'  exec torchrun --nnodes {training.nodes} --nproc-per-node {training.ranks_per_node} --node-rank "$SKYPILOT_NODE_RANK" '
        f'--master-addr "$MASTER_ADDR" --master-port {_PORT} {training.command}\n'
    )


def kubeflow_file(training: LaunchedTraining) -> str:
    """Return a TrainJob for Kubeflow Trainer, which sets environment variables PET_*, such as the number of nodes, for torchrun."""
    command = ", ".join(json.dumps(word, ensure_ascii=False) for word in ("torchrun", "-m", "--", "tfkit", *training.words))
    gpus = f"    resourcesPerNode:\n      limits:\n        nvidia.com/gpu: {training.ranks_per_node}\n" if training.has_gpus else ""
    return (
        f"{training.remarks}"
        "apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\n"
        f"metadata:\n  name: {training.slug}\n"
        "spec:\n  runtimeRef:\n    name: torch-distributed\n  trainer:\n"
        f"    numNodes: {training.nodes}\n    numProcPerNode: {training.ranks_per_node}\n"
        f"{gpus}"
        "    image: IMAGE  # fill in: one with tfkit, the recipe and its data; the runtime mounts the run folder\n"
        f"    command: [{command}]\n"
    )


FILES: dict[str, Callable[[LaunchedTraining], str]] = {
    "torchrun": torchrun_file,
    "slurm": slurm_file,
    "skypilot": skypilot_file,
    "kubeflow": kubeflow_file,
}


def launch_file(
    kind: str,
    recipe: str,
    overrides: Overrides,
    run: Path | None,
    words: Sequence[str],
    *,
    nodes: int,
    ranks_per_node: int | None,
    gpus_per_node: int | None,
) -> str:
    """Return the content of a file of this `kind`, a key of FILES, that starts the training. `words`: the overrides as words KEY=VALUE.

    Raises UsageError for an unknown kind, and for a recipe that is invalid or cannot be divided among the processes.
    """
    if kind not in FILES:
        raise UsageError(f"{kind}: there is no such kind of file; give one of {', '.join(FILES)}")
    processes = gpus_per_node or ranks_per_node or 1  # processes on each machine
    if gpus_per_node is not None and ranks_per_node not in (None, gpus_per_node):
        raise UsageError(
            f"--ranks-per-node {ranks_per_node}: each process has its own GPU, so --gpus-per-node {gpus_per_node} sets their number; "
            "leave --ranks-per-node out"
        )
    source = open_recipe(recipe)
    recipes = read_recipes(source, overrides, ranks=nodes * processes)
    for checked in recipes:
        require_divisible(checked, nodes * processes)
    command = "pretrain" if recipes[0].model.start is None else "finetune"
    folder = run or Path("runs") / source.name
    # A job that is submitted again resumes its run, perhaps on a node where its code was not allowed before, so --allow-code is given.
    code = ["--allow-code"] if any(checked.objective.code_files for checked in recipes) else []
    launched = (command, recipe, *words, "--run", str(folder), "--resume", *code)
    return FILES[kind](LaunchedTraining(launched, source.name, nodes, processes, gpus_per_node is not None))
