"""Runs of tfkit for tests: a tiny corpus, a tiny recipe, and a run in this process, or in one of its own if it gets a fault.

Such a process is a fork of this one, in which everything is imported already: 0.5 s of processor time instead of 3, and 0.25 in this one.
The child's output goes to files, and it ends without reporting to pytest.
"""

import contextlib
import faulthandler
import gc
import hashlib
import importlib
import io
import itertools
import json
import math
import os
import pkgutil
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import fake_codecarbon
import numpy as np

# A run's imports, so that the children have them from the start; torch's optimizers import dynamo in their first step.
import torch._dynamo
from tiny_files import read_rows
from torch import Tensor, nn

import tfkit.cli
import tfkit.engine
import tfkit.generation.complete
from tfkit.__main__ import main
from tfkit.engine.planning import speed_measurements
from tfkit.engine.planning.machine_speed import machine_speed
from tfkit.objectives.causal_lm import CausalLM
from tfkit.run.machine import describe_machine
from tfkit.training import peak_speed
from tfkit.training.isolation import isolated
from tfkit.training.optimizer import Optimizer
from tfkit.training.step import Stepper

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the imports of text metrics
    for _name in (
        "rouge_score.rouge_scorer",
        "sacrebleu",
        *(found.name for package in (tfkit.cli, tfkit.engine) for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
    ):
        importlib.import_module(_name)
_threads = torch.get_num_threads()
torch.set_num_threads(1)  # a fork beside a pool of threads would hang in its first product
# What a run measures once a process, and finds in memory or the cache from then on: coarsely, since no test compares times.
with patch.multiple(speed_measurements, SECONDS=0.0, _ROWS=64), patch.object(peak_speed, "_SIZE", 256):
    for _type in (torch.float32, torch.bfloat16):
        peak_speed.matrix_speed(torch.device("cpu"), _type, 1)
        machine_speed(torch.device("cpu"), _type, 1)
describe_machine()  # whose versions are looked up once a process
torch.set_num_threads(_threads)
gc.freeze()  # the children's collector ignores what is here, so the pages stay shared
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "and", "ran", "fast", "slow", "big", "small", "red", "Straße", "🙂"]
Fault = Callable[[], object]  # what is called in a process before tfkit runs there
Main = Callable[[list[str]], int]
HANG_SECONDS = 600  # no command of a test takes a tenth of it, however busy the machine is
INEXACT = ("tokens_per_second", "mfu", "memory", "energy_wh", "emissions_g")

RECIPE = """
# A recipe for tests.
model: {preset: gpt2, decoder_layers: 2, dim: 16, num_heads: 2, context_length: 16, init: {std: 0.1}}
tokenizer: {vocab_size: 300}
data: {train: [{path: CORPUS}], validation: 0.3}
schedule: {warmup_steps: 2}
training: {steps: 12, batch_size: 4, precision: fp32, log_every: 3}
evaluation: {every: 4, max_tokens: 300}
carbon: {enabled: false}
"""


def slow_micro_batches(seconds: float) -> None:
    """Let each micro-batch of a causal language model take so much longer, in this process."""
    Before(CausalLM, "loss", lambda *_: time.sleep(seconds))()


def slow_and_metered(folder: Path, seconds: float) -> Callable[[], None]:
    """Return a function that gives a run's process the fake meter, and micro-batches that take so much longer."""
    return both(fake_codecarbon.put_first(folder), fake_codecarbon.wait_for_the_end, lambda: slow_micro_batches(seconds))


@dataclass(frozen=True)
class Done:
    """A finished process: its exit code (minus the signal that killed it), and its output.

    Also its peak memory, and the processor time of it and of the processes it waited for: unlike wall time that is about the same on a
    machine that is busy.
    """

    code: int
    out: str
    err: str
    peak_bytes: int = 0
    processor_seconds: float = 0.0

    def exits(self, code: int, *said: str) -> Self:
        """Assert the exit code and what stderr says among other things, and that only a bug has a traceback; return the process."""
        assert self.code == code, self.err
        assert code == 1 or "Traceback" not in self.err, self.err
        for text in said:
            assert text in self.err, self.err
        return self

    def refuses(self, code: int, *said: str) -> Self:
        """Assert the same, and that there is no result on stdout."""
        assert self.exits(code, *said).out == ""
        return self

    @property
    def document(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)

    def next_command(self) -> list[str]:
        """Return the words of the command in the last line of a stopped run, which continues it."""
        program, *words = shlex.split(self.err.splitlines()[-1])
        assert program == "tfkit"
        return words


def write_corpus(folder: Path, files: int = 8) -> Path:
    """Write text files with words in a fixed random order."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        text = " ".join(random.choice(WORDS, 250))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def write_recipe(folder: Path, corpus: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("CORPUS", json.dumps(str(corpus))), encoding="utf-8")
    return path


def both(*faults: Fault) -> Callable[[], None]:
    """Return a fault that is these, in their order."""

    def before() -> None:
        for fault in faults:
            fault()

    return before


class Process:
    """tfkit with these arguments in a fork, or another program; `before` is called in it first, to inject a fault."""

    def __init__(self, folder: Path, arguments: list[str], before: Fault | None = None, program: Main = main):
        self.files = [folder / f"{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside the threads of torch: the child starts none
            self.pid = os.fork()
        if self.pid == 0:
            for descriptor, path in enumerate(self.files, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
            _become_program(program, arguments, before)

    def wait(self) -> Done:
        _, status, usage = os.wait4(self.pid, 0)
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in self.files)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Done(os.waitstatus_to_exitcode(status), out, err, peak, usage.ru_utime + usage.ru_stime)

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)


class Program(subprocess.Popen[Any]):
    """`python -m tfkit` with these words in a fork: its stdin, stdout, stderr, folder and environment are those of a Popen's options.

    `before` is called in it first. `program` is what runs instead of tfkit.
    """

    def __init__(self, words: Sequence[object], before: Fault | None = None, program: Main = main, **options: Any):
        self.before, self.program = before, program
        super().__init__(["tfkit", *map(str, words)], **options)

    def _execute_child(self, args: list[str], *more: Any) -> None:
        # As Popen calls it in all versions of Python: what is used here is in front, and new options are added behind.
        _, _, _, _, folder, environment, _, _, _, stdin, to_stdin, from_stdout, stdout, from_stderr, stderr, *_ = more
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            for descriptor, end in enumerate((stdin, stdout, stderr)):
                if end != -1:
                    os.dup2(end, descriptor)
            for end in (to_stdin, from_stdout, from_stderr):
                if end != -1:
                    os.close(end)
            _become_program(self.program, args[1:], self.before, folder, environment)
        self._child_created = True
        self._close_pipe_fds(stdin, to_stdin, from_stdout, stdout, from_stderr, stderr)


def _become_program(program: Main, words: list[str], before: Fault | None, folder: Any = None, environment: Any = None) -> None:
    """Do what a new interpreter would do with its three files, which a test may have closed or put on a terminal, and end."""
    code = 99
    try:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=2)
        if folder is not None:
            os.chdir(folder)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        if before is not None:
            before()
        code = program(words)
        for stream in filter(None, (sys.stdout, sys.stderr)):  # a fault may have closed one
            stream.flush()
    except BaseException:
        traceback.print_exc()
        code = code or 120  # which Python gives if the last output fails
    finally:
        os._exit(code)


def on_terminal(start: Callable[[int], "subprocess.Popen[Any]"], columns: int = 80) -> tuple[int, str]:
    """Return the exit code of a program that `start` puts on a terminal of this many columns, and what it wrote there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    program = start(theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    return program.wait(), shown.decode()


def run_here(words: Sequence[object], folder: Path | None = None) -> Done:
    """Run tfkit to its end in this process, in `folder` or the current one, with one thread."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    began = sum(os.times()[:4])
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=2)
    with isolated(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder or Path()):
        torch.set_num_threads(1)  # as above: a run may be forked after this one
        code = main([str(word) for word in words])
    faulthandler.cancel_dump_traceback_later()
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))
    return Done(code, *texts, processor_seconds=sum(os.times()[:4]) - began)


class Replaced:
    """A fault: `make` gives, of a function of a class or module, what is called in its place. A block takes it back."""

    def __init__(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]):
        self.owner, self.name, self.make, self.whole = owner, name, make, getattr(owner, name)

    def __call__(self) -> None:
        setattr(self.owner, self.name, self.make(getattr(self.owner, self.name)))

    def __enter__(self) -> None:
        self()

    def __exit__(self, *error: object) -> None:
        setattr(self.owner, self.name, self.whole)


class Before(Replaced):
    """A fault: `act` is called with the same arguments before each call of a function, or before its `call`-th alone, counted from 1."""

    def __init__(self, owner: Any, name: str, act: Callable[..., object], call: int | None = None):
        def make(whole: Callable[..., Any]) -> Callable[..., Any]:
            calls = itertools.count(1)

            def struck(*arguments: Any, **options: Any) -> Any:
                if call in (None, next(calls)):
                    act(*arguments, **options)
                return whole(*arguments, **options)

            return struck

        super().__init__(owner, name, make)


class After(Replaced):
    """A fault: a function returns what `change` makes of its result and its arguments, in each call or in its `call`-th alone."""

    def __init__(self, owner: Any, name: str, change: Callable[..., object], call: int | None = None):
        def make(whole: Callable[..., Any]) -> Callable[..., Any]:
            calls = itertools.count(1)

            def struck(*arguments: Any, **options: Any) -> Any:
                result = whole(*arguments, **options)
                return change(result, *arguments) if call in (None, next(calls)) else result

            return struck

        super().__init__(owner, name, make)


def raising(error: BaseException) -> Callable[..., None]:
    """Return a function that raises it, whatever it is called with."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def spoil(module: str, step: int, value: float = math.nan, backward: bool = False) -> Replaced:
    """A fault: in one step, the output of a module, or the gradient that comes back to it, holds a number that is not finite."""

    def spoilt(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if backward:
            output.register_hook(lambda gradient: gradient * value)
            return output
        return output * value

    def make(accumulate: Callable[..., Any]) -> Callable[..., Any]:
        def struck(self: Stepper, now: int, *arguments: Any) -> Any:
            handle = self.model.get_submodule(module).register_forward_hook(spoilt, prepend=True) if now == step else None
            try:
                return accumulate(self, now, *arguments)
            finally:
                if handle:
                    handle.remove()

        return struck

    return Replaced(Stepper, "_accumulate", make)


def spoil_weight(update: int) -> After:
    """A fault: after this update of the optimizer, counted from 1, a weight is no longer finite."""

    def spoilt(_: None, optimizer: Optimizer, *factors: float) -> None:
        with torch.no_grad():
            optimizer.parameters["decoder.norm.weight"][0] = math.inf

    return After(Optimizer, "step", spoilt, update)


class Strike(Before):
    """A fault: the process gets a signal as the `call`-th micro-batch of its steps, or call of a function, begins, counted from 1."""

    def __init__(self, number: int, call: int, owner: Any = Stepper, name: str = "_accumulate"):
        self.number = number
        super().__init__(owner, name, lambda *_, **__: os.kill(os.getpid(), number), call)


strike = Strike


def run_tfkit(folder: Path, words: Sequence[object], before: Fault | None = None) -> Done:
    """Run tfkit to its end: in this process, or after `before` in one of its own, whose output goes to files in `folder`.

    A fault that can be taken back, such as a signal that tfkit handles, needs no process; `fault.__call__` gets one, whose stderr
    is a file, into which the acknowledgement of a signal goes, too.
    """
    if before is None:
        return run_here(words)
    if isinstance(before, Replaced) and getattr(before, "number", None) != signal.SIGKILL:
        with before:
            return run_here(words)
    return Process(folder, [str(word) for word in words], before).wait()


def pretrain(run: Path, recipe: Path, *words: str, before: Fault | None = None) -> Done:
    """Run a whole training."""
    return run_tfkit(run.parent, ["pretrain", recipe, "--run", run, "--threads", "1", *words], before)


def finetune(run: str, *words: str, before: Fault | None = None) -> Done:
    """Run task.yaml of the current folder."""
    return run_tfkit(Path.cwd(), ["finetune", "task.yaml", "--run", run, "--threads", "1", *words], before)


def run_piped(words: Sequence[object], stdin: bytes) -> Done:
    """Run tfkit in a fork, with these bytes in a file of the current folder as its stdin."""
    Path("stdin").write_bytes(stdin)

    def before() -> None:
        os.dup2(os.open("stdin", os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0, encoding="utf-8")

    return run_tfkit(Path(), words, before)


def evaluate(folder: Path, *words: object) -> Done:
    return run_tfkit(folder, ["evaluate", *words, "--threads", "1"])


def records(run: Path) -> list[dict[str, Any]]:
    return read_rows(run / "metrics.jsonl")


def steps(run: Path) -> list[dict[str, Any]]:
    """Return the records of the logged steps."""
    return [record for record in records(run) if "loss" in record]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in steps(run)]


def evaluations(run: Path) -> dict[int, dict[str, Any]]:
    """Return the scores of each evaluation, by its step."""
    return {record["step"]: record["evaluation"] for record in records(run) if "evaluation" in record}


def exact(run: Path) -> list[dict[str, Any]]:
    """Return the fields of metrics.jsonl that resuming must reproduce bit for bit."""
    return [{name: value for name, value in record.items() if name not in INEXACT} for record in records(run)]


def hashes(run: Path, step: int) -> dict[str, str]:
    """Return the SHA-256 of the weights and the optimizer's state of a checkpoint."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    names = ("model.safetensors", "training_state/optimizer.safetensors", "config.json", "tokenizer.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def assert_same_bits(run: Path, other: Path, step: int) -> None:
    """Assert that two runs have the same weights and optimizer state in a checkpoint, and the same exact fields of metrics.jsonl."""
    assert hashes(run, step) == hashes(other, step), run
    assert exact(run) == exact(other), run


def kept(run: Path) -> list[str]:
    """Return the names of the checkpoints."""
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))
