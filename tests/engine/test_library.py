"""The library: what a script in Python sees of a run, and what a run leaves in its process."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from library_calls import Recorder, call
from tiny_runs import exact, hashes, pretrain, run_tfkit

import tfkit
from tfkit.engine.request.call_arguments import plain_overrides
from tfkit.errors import DataError, TfkitError
from tfkit.recipe import read_recipe
from tfkit.recipe.search_space import SearchSpace

STEPS = 12


def test_a_recipe_in_each_form_is_the_same_run_and_the_same_evaluation(base: Path, document: dict[str, Any]) -> None:
    def train() -> list[Any]:
        source = {"path": Path(document["data"]["train"][0]["path"])}
        with_paths = {**document, "data": {"train": (source,), "validation": np.float64(0.3)}}
        forms: list[Any] = ["tiny.yaml", Path("tiny.yaml"), document, with_paths, read_recipe("tiny.yaml").recipe]
        runs = [tfkit.pretrain(form, {"training.steps": 2}, run=Path(f"form-{number}")).run for number, form in enumerate(forms)]
        return [runs, [tfkit.evaluate(form, start="unbroken", threads=1).metrics["loss"] for form in (None, *forms)]]

    runs, losses = call(base, train)
    assert [Path(run).name for run in runs] == [f"form-{number}" for number in range(5)]
    assert len({json.dumps(hashes(Path(run), 2)) for run in runs}) == len({*losses}) == 1


def test_numbers_of_numpy_are_numbers(base: Path) -> None:
    overrides = {"training.steps": np.int64(2), "optimizer.lr": np.float32(0.5), "training.compile": np.bool_(False)}
    overrides |= {"optimizer.betas": np.array([0.5, 0.75]), "training.seed": torch.tensor(3)}
    recipe = read_recipe(str(base / "tiny.yaml"), plain_overrides(overrides)).recipe
    assert (recipe.optimizer.lr, recipe.training.compile, recipe.training.seed) == (0.5, False, 3)
    assert [*plain_overrides(overrides)["optimizer.betas"]] == [0.5, 0.75]
    space = SearchSpace.of({}, {"optimizer.lr": np.logspace(-3, -2, 2), "training.seed": np.arange(2)})
    assert space.document() == {"optimizer.lr": [0.001, 0.01], "training.seed": [0, 1]}
    assert {type(value) for axis in space.axes for value in axis.values} == {int, float}


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
    printed = pretrain(base / "printed", base / "tiny.yaml", "--json").exits(0).document

    def train() -> Any:
        result = tfkit.pretrain("tiny.yaml", run="returned", threads=1)
        return [result.to_dict(), vars(result), result.history, repr(result)]

    returned, attributes, history, shown = call(base, train)
    assert returned.keys() == printed.keys() == (attributes.keys() - {"document", "stages"}) | {"schema_version"}
    assert all(returned[name] == value for name, value in attributes.items() if name not in ("document", "stages"))
    assert {name: returned[name] for name in returned.keys() - timed} == {name: printed[name] for name in printed.keys() - timed}
    assert [record["step"] for record in history if "evaluation" in record] == [4, 8, 12]
    assert shown.startswith("TrainingResult(\n    run=")
    assert "=None" not in shown

    scored = run_tfkit(base, ["evaluate", "--from", str(base / "unbroken"), "--json", "--threads", "1"]).document

    def evaluate() -> Any:
        result = tfkit.evaluate(start="unbroken", predictions=True, threads=1)
        return [result.to_dict(), vars(result)]

    returned, attributes = call(base, evaluate)
    of_rows = {"predictions", "lost", "decoding", "bleu_tokenize", "inputs", "references", "classes", "entities", "confusion"}
    assert returned.keys() == scored.keys() == (attributes.keys() - {"document", *of_rows}) | {"schema_version"}
    assert {**returned, "checkpoint": ""} == {**scored, "checkpoint": ""}
    assert sum(row["tokens"] for row in attributes["predictions"]) >= returned["metrics"]["target_tokens"]

    words = ["generate", "--from", str(base / "unbroken"), "--prompt", "the cat", "--max-new-tokens", "6", "--json"]
    line = run_tfkit(base, words).document
    [completion] = call(base, lambda: [vars(one) for one in tfkit.generate("the cat", {"generation.max_new_tokens": 6}, start="unbroken")])
    assert {name: line[name] for name in completion} == completion


def test_a_run_that_was_moved_has_the_paths_of_today(base: Path, document: dict[str, Any]) -> None:
    result = call(base, lambda: tfkit.pretrain(document, {"training.steps": 3}, run="here").to_dict())
    shutil.move(base / "here", base / "there")
    moved = tfkit.resume(base / "there")
    shown = json.dumps(moved.to_dict())
    assert str(base / "here") not in shown
    assert {**result} == json.loads(shown.replace("/there", "/here"))
    assert moved.history
    shutil.move(base / "there", base / "here")
    with pytest.raises(DataError, match=r"there/metrics.jsonl: there is no such file; was the run moved or deleted"):
        _ = moved.history


def test_errors_have_their_exit_codes_and_places(base: Path, document: dict[str, Any]) -> None:
    array, number = np.zeros(3), "give a whole number from 1"
    no_path = "is a path, and this is a ndarray"
    answers = (tfkit.evaluate, functools.partial(tfkit.generate, "a"), functools.partial(tfkit.predict, "a"))
    acts = (tfkit.resume, functools.partial(tfkit.track, to="wandb"), functools.partial(tfkit.average, out="c"))
    calls: list[tuple[int, str, Callable[[], object]]] = [
        (2, "trainin: unknown, did you mean training", lambda: tfkit.pretrain({**document, "trainin": {}})),
        (2, "training.stepz: unknown, did you mean steps", lambda: tfkit.pretrain(document, {"training.stepz": 3})),
        (2, "training.steps", lambda: tfkit.pretrain(document, {"training.steps": -1})),
        (2, "overrides=['training.steps=3']: give a dict", lambda: tfkit.pretrain(document, ["training.steps=3"])),
        (2, "recipe=3: give a recipe's name, its path, a dict or a Recipe", lambda: tfkit.pretrain(3)),
        (2, "a value that YAML does not have", lambda: tfkit.pretrain({**document, "model": object()})),
        (2, "optimizer.lr", lambda: tfkit.pretrain(document, {"optimizer.lr": float("nan")})),
        (2, "nothing: no such file", lambda: tfkit.plan("nothing")),
        (2, "Resume it with `resume=True`, or give another folder with `run`", lambda: tfkit.pretrain(document, run="unbroken")),
        (2, "which checkpoint? Give start=CKPT, or model: {from: CKPT}", lambda: tfkit.finetune(document, run="tuned")),
        (2, "model.dim: is of type object, which no", lambda: tfkit.pretrain(document, {"model.dim": object()})),
        (2, "generate takes prompts, and this is of type int; give a list of", lambda: tfkit.generate(3, start="unbroken")),
        (2, "prompt 1: a prompt is a text or a dict, and this is", lambda: tfkit.generate([3], start="unbroken")),
        (3, 'prompt 1: no text under "prompt"; its fields are text', lambda: tfkit.generate({"text": "a"}, start="unbroken")),
        (3, f'no text under "prompt"; it is "{str(base)[:50]}', lambda: tfkit.generate({"prompt": base}, start="unbroken")),
        (2, "stages=sft: the recipe has no stages", lambda: tfkit.pretrain(document, run="one", stages="sft")),
        (2, "there is no run to continue here", lambda: tfkit.resume("nothing")),
        (3, "nothing.txt", lambda: tfkit.pretrain(document, {"data.train": [{"path": "nothing.txt"}]})),
        (4, "nothing", lambda: tfkit.evaluate(start="nothing")),
        (4, "nothing", lambda: tfkit.generate("a", start="nothing")),
        (2, "lies in", lambda: tfkit.generate("a", start="unbroken", run="unbroken/checkpoints/step-000012/x")),
        (5, "xpu", lambda: tfkit.pretrain(document, device="xpu")),
        (2, f"`data` {no_path}; write its rows into a file", lambda: tfkit.finetune(start="a", data=array)),
        (2, f"`start` {no_path}; give its folder, as result.checkpoint is one", lambda: tfkit.finetune(start=array, data="b")),
        *((2, f"`start` {no_path}", functools.partial(answer, start=array)) for answer in answers),
        *((2, "`start` is missing; give its folder", functools.partial(answer, start=None)) for answer in answers),
        *((2, f"`run` {no_path}; give its folder, as result.run is one", functools.partial(act, array)) for act in acts),
        (2, f"`path` {no_path}", lambda: tfkit.load(array)),
        (2, "pretrain: what is trained? Give a recipe, or data=F, a text", tfkit.pretrain),
        (2, "plan: what is planned? Give a recipe, or start=CKPT and data=F", tfkit.plan),
        (2, "'training..steps' is not the name of a field, such as training.steps", lambda: tfkit.plan(document, {"training..steps": 1})),
        (2, "training.seed: half a character (a surrogate)", lambda: tfkit.sweep(document, {"training.seed": ["\ud800", "1"]})),
        (2, "ranks=2: the number of ranks must be at least 1", lambda: tfkit.plan(document, ranks="2")),
        (2, "probe=1.5: the number of steps must be at least 0", lambda: tfkit.plan(document, probe=1.5)),
        (2, "stages=None: give a list of the names of stages", lambda: tfkit.plan(document, stages=None)),
        (2, "space=None: give a dict with the values of each varied field", lambda: tfkit.sweep(document, space=None)),
        (2, "5: unknown", lambda: tfkit.sweep(document, {5: [1, 2]})),
    ]
    for value in (0, -1, 1.5, "2", True):
        for act in (tfkit.pretrain, tfkit.plan, tfkit.evaluate):
            given = {"start": "unbroken"} if act is tfkit.evaluate else {"recipe": document}
            calls.append((2, f"threads={value!r}: {number}", functools.partial(act, **given, threads=value)))
        calls.append((2, f"ranks={value!r}: {number}", functools.partial(tfkit.pretrain, document, run="none", ranks=value)))
        calls.append((2, f"last={value!r}: {number}", functools.partial(tfkit.average, "unbroken", "mean", last=value)))
        calls.append((2, f"trials={value!r}: {number}", functools.partial(tfkit.sweep, document, {"training.seed": [1]}, trials=value)))
    for minutes in (0, -1.0, float("nan"), float("inf"), "1"):
        calls.append((2, ": give a number of minutes above 0", functools.partial(tfkit.pretrain, document, minutes=minutes)))

    def errors() -> list[list[Any]]:
        found: list[list[Any]] = []
        for _, message, act in calls:
            try:
                act()
                found.append([0, message])
            except TfkitError as error:
                found.append([error.exit_code, str(error)])
        return [found, Path("none").exists()]

    found, is_made = call(base, errors)
    for (code, message, _), (exit_code, said) in zip(calls, found, strict=True):
        assert (exit_code, message in said) == (code, True), (message, said)
    assert not is_made


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


@pytest.mark.parametrize("kind", ["no_grad", "inference_mode", "autocast", "float64", "device"])
def test_the_callers_settings_do_not_change_a_run(base: Path, document: dict[str, Any], kind: str) -> None:
    """A notebook that begins with torch.set_grad_enabled(False) trains as any other."""

    def train() -> Any:
        before = torch.get_default_dtype(), torch.get_default_device()
        with {
            "no_grad": torch.no_grad(),
            "inference_mode": torch.inference_mode(),
            "autocast": torch.autocast("cpu", torch.bfloat16),
            "float64": nullcontext(torch.set_default_dtype(torch.float64) if kind == "float64" else None),
            "device": torch.device("meta") if kind == "device" else nullcontext(),
        }[kind]:
            state = process_state()
            tfkit.pretrain(document, run=f"under-{kind}", threads=1)
            assert [name for name, value in process_state().items() if value != state[name]] == []
        return [str(one) for one in before]

    assert call(base, train) == ["torch.float32", "cpu"]
    assert hashes(base / f"under-{kind}", STEPS) == hashes(base / "unbroken", STEPS)


@pytest.mark.thorough
def test_two_runs_in_one_process_are_each_as_if_alone(base: Path, document: dict[str, Any]) -> None:
    other = {**document, "training": {**document["training"], "seed": 2, "precision": "bf16"}}
    call(base, lambda: tfkit.pretrain(other, run="alone", threads=1).run)

    def both() -> Any:
        tfkit.pretrain(other, run="one", threads=1)
        torch.rand(3)
        tfkit.generate("the cat", {"generation.temperature": 1.0}, start="one")
        return [tfkit.pretrain(document, run="second").run, tfkit.pretrain(other, run="third", threads=1).run]

    call(base, both)
    alone = hashes(base / "alone", STEPS)
    assert hashes(base / "one", STEPS) == hashes(base / "third", STEPS) == alone
    assert hashes(base / "second", STEPS) == hashes(base / "unbroken", STEPS) != alone
    assert exact(base / "one") == exact(base / "third") == exact(base / "alone")


def process_state() -> dict[str, Any]:
    """The global state that a run may change, and that its caller must find unchanged."""
    return {
        "threads": torch.get_num_threads(),
        "torch's random state": torch.random.get_rng_state().tolist(),
        "numpy's random state": repr(np.random.get_state()),
        "Python's random state": repr(random.getstate()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "fill_uninitialized_memory": torch.utils.deterministic.fill_uninitialized_memory,
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "defaults": (str(torch.get_default_dtype()), str(torch.get_default_device())),
        "warnings": repr(warnings.filters),
        "signals": repr([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "streams": repr((sys.stdout, sys.stderr)),
        "exception hook": repr(sys.excepthook),
    }


@pytest.mark.thorough
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
            lambda: tfkit.plan(document, ranks=2),
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
    code = "import sys; before = {*sys.modules}; import tfkit; dir(tfkit); print(*sorted({*sys.modules} - before)); tfkit.errors.UsageError"
    place = Path(tfkit.__file__).parents[1]
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"tfkit"}
    assert [name for name in done.stdout.split() if name.startswith("tfkit")] == ["tfkit"]
    assert {"pretrain", "console", "errors"} <= {*dir(tfkit)}  # what a notebook completes


@pytest.mark.thorough
def test_what_a_call_gives_back_imports_no_compiler_and_one_that_is_imported_later_is_deterministic_as_well() -> None:
    code = """
import sys, torch
from tfkit.training.isolation import isolated
from tfkit.training.device import make_deterministic
for mode in range(3):
    torch.set_deterministic_debug_mode(mode)
    with isolated():
        torch.set_deterministic_debug_mode(2 - mode)
    print(torch.get_deterministic_debug_mode(), end=" ")
print("torch._inductor" in sys.modules)
torch.set_deterministic_debug_mode(0)
with isolated():
    make_deterministic(torch.device("cpu"))
    print(torch.get_deterministic_debug_mode(), "torch._inductor" in sys.modules, end=" ")
    import torch._inductor.config
    print(torch._inductor.config.deterministic, end=" ")
print(torch.get_deterministic_debug_mode(), torch._inductor.config.deterministic)
"""
    place = Path(tfkit.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=place)
    assert done.stdout.splitlines() == ["0 1 2 False", "2 False True 0 False"]
