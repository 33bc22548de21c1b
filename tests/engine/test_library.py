"""The library: what a script in Python sees of a run, what a run leaves in its process, and how it is stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from library_calls import call, recipe
from tiny_runs import Process, exact, hashes, kept, pretrain, strike, write_corpus

import tfkit
from tfkit.engine.api import _interrupts
from tfkit.engine.listener import Live, Progress
from tfkit.errors import DataError, Stopped, TfkitError
from tfkit.recipe import read_recipe
from tfkit.recipe.dump import dump_document

STEPS = 12
SCRIPT = """
import tfkit
result = tfkit.pretrain("tiny.yaml", {"training.steps": 6}, run="runs/base")
before = tfkit.evaluate(start=result.checkpoint).metrics["perplexity"]
tuned = tfkit.finetune(start="runs/base", data="corpus", overrides={"training.steps": 4, "carbon.enabled": False}, run="runs/tuned")
after = tfkit.evaluate(start="runs/tuned").metrics["perplexity"]
completions = tfkit.generate(["the cat", "a dog"], {"generation.max_new_tokens": 5}, start=tuned.checkpoint)
for completion in completions:
    assert completion.tokens == 5 and completion.finish == "length"
curve = [(record["step"], record["loss"]) for record in result.history if "loss" in record]
scores = {record["step"]: record["evaluation"]["perplexity"] for record in result.history if "evaluation" in record}
steps, losses = zip(*curve)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, the recipe, and a run of it that was never stopped."""
    folder = tmp_path_factory.mktemp("library")
    document = recipe(write_corpus(folder / "corpus"))
    (folder / "tiny.yaml").write_text(dump_document(document), encoding="utf-8")
    call(folder, lambda: tfkit.pretrain(document, run="unbroken").to_dict())
    return folder


@pytest.fixture(scope="module")
def document(base: Path) -> dict[str, Any]:
    return recipe(base / "corpus")


def test_a_script_of_twelve_lines(base: Path) -> None:
    """It pretrains, evaluates, fine-tunes, generates and plots, and prints nothing."""
    assert len(SCRIPT.strip().splitlines()) <= 12
    names: dict[str, Any] = {}

    def script() -> Any:
        exec(SCRIPT, names)
        return [names["steps"], names["losses"], names["scores"], names["before"], names["after"], names["result"].evaluation]

    steps, losses, scores, before, after, evaluation = call(base, script)
    assert steps == [3, 6]
    assert len(losses) == 2
    assert scores["6"] == evaluation["perplexity"]
    assert before != after  # the second is of the tuned model
    assert min(before, after) > 1


def test_a_recipe_in_each_form_is_the_same_run(base: Path, document: dict[str, Any]) -> None:
    forms: list[Callable[[], Any]] = [
        lambda: tfkit.pretrain("tiny.yaml", {"training.steps": 2}, run="path-as-text"),
        lambda: tfkit.pretrain(Path("tiny.yaml"), {"training.steps": 2}, run=Path("path")),
        lambda: tfkit.pretrain(document, {"training": {**document["training"], "steps": 2}}, run="dict"),
        lambda: tfkit.pretrain(read_recipe("tiny.yaml").recipe, {"training.steps": 2}, run="recipe"),
    ]
    runs = call(base, lambda: [form().run for form in forms])
    assert [Path(run).name for run in runs] == ["path-as-text", "path", "dict", "recipe"]
    assert len({json.dumps(hashes(Path(run), 2)) for run in runs}) == 1


def test_a_recipe_by_its_name(base: Path, document: dict[str, Any]) -> None:
    """A dict replaces what it names, as key=value does; the folder is that of the recipe's name."""
    result = call(base, lambda: tfkit.pretrain("gpt2-stdlib", {**document, "training.steps": 1, "schedule": {}}).to_dict())
    assert result["steps"] == 1
    assert Path(result["run"]) == base / "runs" / "gpt2-stdlib"
    resolved = read_recipe(str(base / "runs" / "gpt2-stdlib" / "recipe.yaml")).recipe
    assert resolved.model.preset == "gpt2"
    assert (resolved.training.batch_size, resolved.training.steps) == (4, 1)


def test_results_are_those_of_json(base: Path) -> None:
    """The same fields, each an attribute, with the same numbers but for those of time."""
    timed = {"run", "checkpoint", "best", "seconds", "train_seconds", "tokens_per_second"}
    done = pretrain(base / "printed", base / "tiny.yaml", "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)

    def train() -> Any:
        result = tfkit.pretrain("tiny.yaml", run="returned", threads=1)
        return [result.to_dict(), vars(result), result.history]

    returned, attributes, history = call(base, train)
    assert returned.keys() == printed.keys() == (attributes.keys() - {"document"}) | {"schema_version"}
    assert all(returned[name] == value for name, value in attributes.items() if name != "document")
    assert {name: returned[name] for name in returned.keys() - timed} == {name: printed[name] for name in printed.keys() - timed}
    assert [record["step"] for record in history if "evaluation" in record] == [4, 8, 12]

    done = Process(base, ["evaluate", "--from", str(base / "unbroken"), "--json", "--threads", "1"]).wait()
    scored = json.loads(done.out)

    def evaluate() -> Any:
        result = tfkit.evaluate(start="unbroken", predictions=True, threads=1)
        return [result.to_dict(), vars(result)]

    returned, attributes = call(base, evaluate)
    assert returned.keys() == scored.keys() == (attributes.keys() - {"document", "predictions", "decoding"}) | {"schema_version"}
    assert {**returned, "checkpoint": ""} == {**scored, "checkpoint": ""}
    assert sum(row["tokens"] for row in attributes["predictions"]) >= returned["metrics"]["target_tokens"]

    words = ["generate", "--from", str(base / "unbroken"), "--prompt", "the cat", "--max-new-tokens", "6", "--json"]
    line = json.loads(Process(base, words).wait().out)
    [completion] = call(base, lambda: [vars(one) for one in tfkit.generate("the cat", {"generation.max_new_tokens": 6}, start="unbroken")])
    assert {name: line[name] for name in completion} == completion


def test_errors_have_their_exit_codes_and_places(base: Path, document: dict[str, Any]) -> None:
    calls: dict[str, tuple[Callable[[], object], int, str]] = {
        "a wrong key": (lambda: tfkit.pretrain({**document, "trainin": {}}), 2, "trainin: unknown, did you mean training"),
        "a wrong override": (lambda: tfkit.pretrain(document, {"training.stepz": 3}), 2, "training.stepz: unknown, did you mean steps"),
        "a wrong value": (lambda: tfkit.pretrain(document, {"training.steps": -1}), 2, "training.steps"),
        "no YAML": (lambda: tfkit.pretrain({**document, "model": object()}), 2, "a value that YAML does not have"),
        "not a number": (lambda: tfkit.pretrain(document, {"optimizer.lr": float("nan")}), 2, "optimizer.lr"),
        "no recipe": (lambda: tfkit.plan("nothing"), 2, "nothing: no such file"),
        "a run that is there": (lambda: tfkit.pretrain(document, run="unbroken"), 2, "holds checkpoints of an earlier run"),
        "no run": (lambda: tfkit.resume("nothing"), 2, "there is no run to go on with here"),
        "no data": (lambda: tfkit.pretrain(document, {"data.train": [{"path": "nothing.txt"}]}), 3, "nothing.txt"),
        "no model": (lambda: tfkit.evaluate(start="nothing"), 4, "nothing"),
        "no model to write with": (lambda: tfkit.generate("a", start="nothing"), 4, "nothing"),
        "no device": (lambda: tfkit.pretrain(document, device="xpu"), 5, "xpu"),
    }

    def errors() -> dict[str, list[Any]]:
        found = {}
        for name, (function, _, _) in calls.items():
            try:
                function()
            except TfkitError as error:
                found[name] = [error.exit_code, str(error)]
        return found

    found = call(base, errors)
    assert {name: code for name, (code, _) in found.items()} == {name: code for name, (_, code, _) in calls.items()}
    for name, (_, _, place) in calls.items():
        assert place in found[name][1], name


def test_should_stop_gives_a_result_and_resume_goes_on(base: Path, document: dict[str, Any]) -> None:
    def stopped() -> Any:
        asked = iter([False] * 9)
        return tfkit.pretrain(document, run="stopped", should_stop=lambda: next(asked, True)).to_dict()

    result = call(base, stopped)
    assert (result["status"], result["stopped_early"]) == ("stopped", True)
    assert 0 < result["steps"] < STEPS
    assert kept(base / "stopped")[-1] == Path(result["checkpoint"]).name == f"step-{result['steps']:06d}"
    result = call(base, lambda: tfkit.resume("stopped").to_dict())
    assert (result["status"], result["steps"]) == ("finished", STEPS)
    assert hashes(base / "stopped", STEPS) == hashes(base / "unbroken", STEPS)
    assert exact(base / "stopped") == exact(base / "unbroken")
    assert call(base, lambda: tfkit.resume("stopped").to_dict()) == result  # again


def test_a_run_that_is_stopped_before_its_first_step(base: Path, document: dict[str, Any]) -> None:
    def stopped() -> Any:
        result = tfkit.pretrain(document, run="early", should_stop=lambda: True)
        return [result.to_dict(), result.checkpoint, result.history]

    result, checkpoint, history = call(base, stopped)
    assert (result["status"], result["steps"], checkpoint, history) == ("stopped", 0, None, [])
    assert result["run"] == str(base / "early")


class Recorder:
    """A listener that notes what it receives, and calls `at` first."""

    terminal = False

    def __init__(self, at: Callable[[str], object] = lambda event: None):
        self.at = at
        self.events: list[list[Any]] = []

    def note(self, event: str, *facts: Any) -> None:
        self.events.append([event, *facts])
        self.at(event)

    def say(self, text: str) -> None:
        self.note("say", text)

    def warn(self, text: str) -> None:
        self.note("warn", text)

    def advance(self, count: int = 1) -> None:
        self.note("advance", count)

    def update(self, fields: Mapping[str, Any]) -> None:
        self.note("update", dict(fields))

    @contextmanager
    def progress(self, description: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
        self.note("progress", description)
        yield self

    @contextmanager
    def live(self) -> Iterator[Live]:
        self.note("live")
        yield self


def test_a_listener_receives_what_the_command_prints(base: Path, document: dict[str, Any]) -> None:
    def train() -> Any:
        listener = Recorder()
        tfkit.pretrain(document, {"training.steps": 3, "data.validation": [{"path": "corpus"}]}, run="heard", listener=listener)
        return listener.events

    events = call(base, train)
    kinds = {event[0] for event in events}
    assert kinds == {"say", "warn", "progress", "advance", "live", "update"}
    assert any("held-out rows are among those that are trained on" in event[1] for event in events if event[0] == "warn")
    [updated] = [event[1] for event in events if event[0] == "update"]
    assert (updated["step"], updated["steps"]) == (3, 3)


def interrupted(base: Path, run: str, at: Callable[[str], object], steps: int = 10**6) -> bool:
    """Whether a training with this listener, in a fork, raised KeyboardInterrupt, and gave the handler of SIGINT back."""

    def train() -> bool:
        before = signal.getsignal(signal.SIGINT)
        try:
            tfkit.pretrain("tiny.yaml", {"training.steps": steps}, run=run, listener=Recorder(at))
        except KeyboardInterrupt:
            return signal.getsignal(signal.SIGINT) == before
        return False

    return bool(call(base, train))


def interrupt(_: str = "") -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_is_raised(base: Path) -> None:
    timers: list[threading.Timer] = []

    def soon(event: str) -> None:
        if event == "update" and not timers:
            timers.append(threading.Timer(0.02, interrupt))
            timers[0].start()

    assert interrupted(base, "pressed", soon)
    [*_, newest] = kept(base / "pressed")
    done = int(newest.removeprefix("step-"))
    assert 3 <= done < 10**6
    assert call(base, lambda: tfkit.resume("pressed", {"training.steps": done + 1}).status) == "finished"


def test_a_stop_drops_the_step_that_is_not_whole(base: Path, document: dict[str, Any]) -> None:
    """Ctrl-C in the first micro-batch of two: of the first step, and of the fourth."""

    def train(run: str) -> bool:
        with suppress(KeyboardInterrupt):
            tfkit.pretrain(document, run=run)
            return False
        return True

    assert call(base, lambda: train("first"), before=strike(signal.SIGINT, 1))
    assert kept(base / "first") == []
    assert call(base, lambda: train("fourth"), before=strike(signal.SIGINT, 7))
    assert kept(base / "fourth") == ["step-000003"]
    for run in ("first", "fourth"):
        call(base, lambda run=run: tfkit.pretrain(document, run=run, resume=True).status)
        assert hashes(base / run, STEPS) == hashes(base / "unbroken", STEPS)


def test_half_a_score_is_none(base: Path) -> None:
    """Where nothing is saved a stop is an exception, and Ctrl-C is Ctrl-C."""

    def raised(act: Callable[[], object]) -> str:
        try:
            act()
        except (Stopped, KeyboardInterrupt) as error:
            return type(error).__name__
        return ""

    acts: list[Callable[[], object]] = [
        lambda: tfkit.evaluate(start="unbroken", should_stop=lambda: True),
        lambda: tfkit.generate("the cat", start="unbroken", should_stop=lambda: True),
        lambda: tfkit.evaluate(start="unbroken", listener=Recorder(lambda event: interrupt() if event == "progress" else None)),
        lambda: tfkit.plan("tiny.yaml", listener=Recorder(lambda event: interrupt() if event == "progress" else None)),
    ]
    assert call(base, lambda: [raised(act) for act in acts]) == ["Stopped", "Stopped", "KeyboardInterrupt", "KeyboardInterrupt"]


def test_ctrl_c_in_the_preparation_is_raised_at_once(base: Path) -> None:
    assert interrupted(base, "prepared", lambda event: interrupt() if event == "progress" else None)
    assert not (base / "prepared" / "checkpoints").exists()
    assert json.loads((base / "prepared" / "run.json").read_text(encoding="utf-8"))["status"] != "finished"


def test_the_third_ctrl_c_ends_the_run_but_not_the_process(base: Path) -> None:
    assert interrupted(base, "thrice", lambda event: [interrupt() for _ in range(3)] if event == "update" else None)
    assert not kept(base / "thrice")


def test_ctrl_c_that_comes_too_late_is_raised_all_the_same() -> None:
    with pytest.raises(KeyboardInterrupt), _interrupts(None):
        interrupt()


def test_two_runs_in_one_process_are_each_as_if_alone(base: Path, document: dict[str, Any]) -> None:
    other = {**document, "training": {**document["training"], "seed": 2, "precision": "bf16"}}
    call(base, lambda: tfkit.pretrain(other, run="alone").run)

    def both() -> Any:
        tfkit.pretrain(other, run="one", threads=1)
        torch.rand(3)
        tfkit.generate("the cat", {"generation.temperature": 1.0}, start="one")
        return [tfkit.pretrain(document, run="second").run, tfkit.pretrain(other, run="third").run]

    call(base, both)
    alone = hashes(base / "alone", STEPS)
    assert hashes(base / "one", STEPS) == hashes(base / "third", STEPS) == alone
    assert hashes(base / "second", STEPS) == hashes(base / "unbroken", STEPS) != alone
    assert exact(base / "one") == exact(base / "third") == exact(base / "alone")


def process_state() -> dict[str, Any]:
    """What a run may change, and its caller must find as it was."""
    return {
        "threads": torch.get_num_threads(),
        "torch's random state": torch.random.get_rng_state().tolist(),
        "numpy's random state": repr(np.random.get_state()),
        "Python's random state": repr(random.getstate()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "fill_uninitialized_memory": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "gradients": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "warnings": repr(warnings.filters),
        "signals": repr([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "streams": repr((sys.stdout, sys.stderr)),
    }


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_process_is_left_as_it_was(base: Path, document: dict[str, Any], deterministic: bool) -> None:
    def changes() -> Any:
        torch.set_num_threads(2)
        torch.manual_seed(7)
        torch.use_deterministic_algorithms(deterministic, warn_only=deterministic)
        torch.backends.cudnn.benchmark = True
        warnings.simplefilter("error", ResourceWarning)
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"
        before, found = process_state(), []
        run = f"left-{deterministic}"
        for act in (
            lambda: tfkit.pretrain(document, {"training.steps": 1}, run=run, threads=1),
            lambda: tfkit.pretrain(document, {"data.train": [{"path": "nothing"}]}, run=f"{run}-failed", threads=1),
            lambda: tfkit.resume(run, {"training.steps": 2}, threads=1),
            lambda: tfkit.finetune(start=run, data="corpus", overrides={"training.steps": 1, "carbon.enabled": False}, run=f"{run}-tuned"),
            lambda: tfkit.evaluate(start=run, threads=1),
            lambda: tfkit.generate("the cat", start=run, threads=1),
            lambda: tfkit.plan(document),
        ):
            with suppress(DataError):  # of the second
                act()
            after = process_state()
            found.append([name for name in before if before[name] != after[name]])
        return found

    assert call(base, changes) == [[]] * 7


def test_a_plan_makes_nothing_and_says_what_the_run_takes(base: Path, document: dict[str, Any]) -> None:
    def plan() -> Any:
        before = sorted(Path().iterdir())
        estimate = tfkit.plan(document)
        assert sorted(Path().iterdir()) == before
        return estimate.to_dict()

    def no_weights() -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("weights were made")

        for name in ("normal_", "zero_", "uniform_"):  # of every initialization; on the meta device it has none
            method = getattr(torch.Tensor, name)
            setattr(torch.Tensor, name, lambda self, *a, m=method, **k: m(self, *a, **k) if self.is_meta else refuse())

    estimate = call(base, plan, before=no_weights)
    result = call(base, lambda: [tfkit.pretrain(document, run="planned").to_dict(), parameters("planned")])
    assert [estimate["steps"], estimate["tokens"], estimate["parameters"]] == [result[0]["steps"], result[0]["tokens"], result[1]]


def parameters(run: str) -> int:
    return sum(parameter.numel() for parameter in tfkit.load(run).model.parameters())


def test_import_tfkit_imports_nothing_else() -> None:
    code = "import sys; before = {*sys.modules}; import tfkit; dir(tfkit); print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"tfkit"}
    assert [name for name in done.stdout.split() if name.startswith("tfkit")] == ["tfkit"]


def test_a_strike_of_sigterm_is_the_callers(base: Path, document: dict[str, Any]) -> None:
    """The library handles Ctrl-C alone: a program that is asked to end has its own way."""

    def train() -> Any:
        heard: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
        return [tfkit.pretrain(document, {"training.steps": 2}, run="termed").status, heard]

    assert call(base, train, before=strike(signal.SIGTERM, 2)) == ["finished", [signal.SIGTERM]]
