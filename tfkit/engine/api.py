"""The functions of the library, such as `tfkit.pretrain`. docs/library.md describes them.

Nothing is printed unless a listener prints it, errors are the classes of tfkit.errors, and a call restores the state of its process, such
as seeds and threads. `recipe` is the name of a bundled recipe, a path, a dict or a Recipe; `overrides` maps names of fields (dotted, such
as "training.steps") or of sections to values. A KeyboardInterrupt ends a training only after its last complete step is saved.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.alignment.user_code import CodePermission
from tfkit.engine.listener import Listener, Silent, StopRequest
from tfkit.engine.recognition.own_data import training_request, with_length
from tfkit.engine.request.call_arguments import (
    AnyRecipe,
    Prompts,
    path_text,
    plain_columns,
    plain_overrides,
    recipe_text,
    required_path,
    run_folder,
    stage_names,
)
from tfkit.engine.request.rank_checks import require_count
from tfkit.engine.request.training_request import TrainingKind, TrainingRequest
from tfkit.engine.results import Completion, EvaluationResult, SweepResult, TrainingResult
from tfkit.errors import Stopped, UsageError
from tfkit.recipe.reading.overrides import Overrides, scored_overrides
from tfkit.recipe.search_space import SearchSpace
from tfkit.run.signals import interrupts
from tfkit.training.isolation import isolated
from tfkit.units import format_number_of

if TYPE_CHECKING:
    import torch

    from tfkit.engine.inference.loaded_model import LoadedModel
    from tfkit.engine.inference.row_answers import RowAnswers
    from tfkit.engine.inference.session import Session
    from tfkit.engine.request.evaluation_settings import OpenedCheckpoint
    from tfkit.engine.tools.averaging import Averaged
    from tfkit.engine.tools.tracking import Tracked
    from tfkit.engine.training_run.attempt import RunOptions
    from tfkit.engine.training_run.estimate import Estimate
    from tfkit.generation.answer_precision import Precision
    from tfkit.hub import Loaded

__all__ = ["average", "evaluate", "finetune", "generate", "load", "plan", "predict", "pretrain", "resume", "sweep", "track"]

Columns = Mapping[str, str | Sequence[str]] | None  # {"text": "question"}: the role "text" is read from the column "question" of the data
ShouldStop = Callable[[], bool] | None
Train = Callable[["RunOptions", Listener, StopRequest], dict[str, Any]]
OpenSession = Callable[[StopRequest], AbstractContextManager["Session"]]


# -------------------------------------------------------------------------------------------------------------------- calls that train


def pretrain(
    recipe: AnyRecipe | None = None,
    overrides: Overrides | None = None,
    *,
    data: str | Path | None = None,
    columns: Columns = None,
    tokens: int | None = None,
    minutes: float | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Train the model of a recipe from random weights, in the folder `run` (default: runs/NAME, the name of the recipe or data).

    `data`: a file, folder or glob to train on; a part is held out for validation, and fields of the recipe that depend on the amount of
    text are computed from `data`, unless the overrides set them. Without a recipe, a small decoder is trained. `tokens`, `minutes`: the
    length of the training. If the recipe has stages, all are run in turn, or only those in `stages`; names in `overrides` begin with a
    stage's name, as in "STAGE.training.steps".
    `should_stop` is called between micro-batches; if it returns True, the unfinished step is dropped, and the result has the status
    "stopped". After Ctrl-C, the last complete step is saved, and KeyboardInterrupt is raised. Raises the errors of tfkit.errors.

    `ranks`: the number of processes on this machine that train together: this one, and others that the call starts and ends. `resume`:
    continue a run that is in the folder already; `exact`: only from its newest checkpoint, not from an older one if the newest is damaged.
    `force`: start even if the planned checkpoints do not fit on the disk. `allow_code`: run the reward functions that the recipe of a
    resumed run names, even if they were not allowed before. For a new run, allow_code: true in the recipe is enough.
    """
    if recipe is None and data is None:
        raise UsageError("pretrain: what is trained? Give a recipe, or data=F, a text")
    request = _request("pre-training", recipe, overrides, None, data, columns, tokens, minutes)
    given = {"resume": resume, "exact": exact, "force": force, "device": device, "threads": threads, "stages": stage_names(stages)}
    length = {"minutes": minutes, "named": tuple(request.overrides)}
    options = _run_options("pretrain", run_folder(run, request.run_name), allow_code, **given, **length)
    return _train(_start(request), options, ranks, should_stop, listener)


def finetune(
    recipe: AnyRecipe | None = None,
    overrides: Overrides | None = None,
    *,
    start: str | Path | None = None,
    data: str | Path | None = None,
    columns: Columns = None,
    run: str | Path | None = None,
    resume: bool = False,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Fine-tune the checkpoint `start` on `data` (defaults: those of the recipe). Without a recipe, the task is inferred from both.

    `columns`: the column of `data` for each role, such as {"text": "question", "label": "topic"}; columns of other roles are
    recognised. In a recipe with stages, `start`, `data` and `columns` belong to the first stage. For the other arguments see `pretrain`.
    """
    request = _request("fine-tuning", recipe, overrides, start, data, columns)
    given = {"resume": resume, "exact": exact, "force": force, "device": device, "threads": threads, "stages": stage_names(stages)}
    options = _run_options("finetune", run_folder(run, request.run_name), allow_code, **given)
    return _train(_start(request), options, ranks, should_stop, listener)


def resume(
    run: str | Path,
    overrides: Overrides | None = None,
    *,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult | SweepResult:
    """Continue the run in the folder `run` with its recipe, changed by `overrides`. For the other arguments see `pretrain`.

    Returns a SweepResult for a sweep's folder, else a TrainingResult. A finished run returns its result again, unless it is lengthened.
    """
    from tfkit.engine.chains import sweep_plan, sweeping

    given = {"resume": True, "exact": exact, "force": force, "device": device, "threads": threads, "stages": stage_names(stages)}
    options = _run_options("resume", Path(required_path("run", run)), allow_code, **given)
    train = partial(sweeping.resume, plain_overrides(overrides))
    call = _sweep if sweep_plan.is_sweep(options.run) else _train
    return call(train, options, ranks, should_stop, listener)


def sweep(
    recipe: AnyRecipe | None,
    space: Mapping[str, str | Sequence[Any]],
    overrides: Overrides | None = None,
    *,
    trials: int | None = None,
    start: str | Path | None = None,
    data: str | Path | None = None,
    columns: Columns = None,
    run: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    ranks: int = 1,
    allow_code: bool = False,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> SweepResult:
    """Train a recipe once for each combination of the values in `space`, and compare these trials by their scores on held-out rows.

    If `recipe` is None, it is inferred once, as by `finetune`, from `start`, `data` and the first value (of a range, the lower end) of
    each field in `space`, such as {"optimizer.lr": [1e-3, 3e-3]}. `trials`: None: all combinations; else their number: Optuna chooses the
    values, and `space` may have ranges, such as {"optimizer.lr": "1e-5..1e-2"}. Each trial is a run in its own folder
    inside `run` (default: runs/NAME-sweep; NAME: the recipe, or `start` and `data`). For the other arguments see `pretrain` and `finetune`.
    """
    from tfkit.engine.chains import sweeping

    require_count("trials", trials)
    request = _request(None, recipe, overrides, start, data, columns)
    folder = run_folder(run, f"{request.run_name}-sweep")
    options = _run_options("sweep", folder, allow_code, resume=resume, force=force, device=device, threads=threads)
    train = partial(sweeping.run_sweep, request.source, SearchSpace.of(request.overrides, space), trials)
    return _sweep(train, options, ranks, should_stop, listener)


def plan(
    recipe: AnyRecipe | None = None,
    overrides: Overrides | None = None,
    *,
    start: str | Path | None = None,
    data: str | Path | None = None,
    columns: Columns = None,
    probe: int = 0,
    ranks: int = 1,
    gpu: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    stages: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
) -> "Estimate":
    """Estimate the time, energy and memory of a run without starting it. Text is tokenized; only `probe` loads weights.

    For a recipe with stages, the estimate is the sum over all stages, or over those in `stages`, and `.stages` has the estimate of each; a
    stage that starts from an earlier stage's model is planned with the model that the earlier stage's recipe describes. `probe`: the number
    of real steps to measure; their weights are discarded. `ranks` and `gpu` (h100, a100, l4, mi300x): plan for this number of processes, or
    for this GPU by its data sheet. `start`, `data` and `columns` are those of `finetune`.
    """
    from tfkit.engine.inference.session import open_session
    from tfkit.engine.planning.plan_request import PlanOptions, check_plan_request

    if recipe is None and start is None and data is None:
        raise UsageError("plan: what is planned? Give a recipe, or start=CKPT and data=F")
    require_count("threads", threads)
    selected = stage_names(stages)
    planned = check_plan_request(_request(None, recipe, overrides, start, data, columns), selected)
    with isolated(), interrupts(None) as stop, open_session("plan", planned.carbon, None, listener or Silent(), stop) as session:
        from tfkit.engine.chains.planned_chain import make_plan

        return make_plan(planned, session, PlanOptions(device, threads, selected, probe, ranks, gpu, CodePermission(every_file=allow_code)))


# ------------------------------------------------------------------------------------------------------------ calls that use a checkpoint


def evaluate(
    recipe: AnyRecipe | None = None,
    overrides: Overrides | None = None,
    *,
    start: str | Path,
    data: str | Path | None = None,
    columns: Columns = None,
    predictions: bool = False,
    allow_code: bool = False,
    run: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> EvaluationResult:
    """Score the checkpoint `start` on `data`; by default on data.validation of the recipe or, without one, of the checkpoint's run.

    `columns`: the column of `data` for each role, such as {"text": "question"}; other roles have the columns of the
    training, or recognised ones. `predictions`: return the prediction for each row, too. `allow_code`: run the reward functions that the
    recipe names, even if they were not allowed before. Raises Stopped if `should_stop` returns True; the scores so far are then discarded.
    """
    from tfkit.engine.inference.evaluator import Evaluator

    with isolated(), interrupts(should_stop) as stop:
        source = recipe_text(recipe) if recipe is not None else None
        changes = scored_overrides(plain_columns(columns), plain_overrides(overrides))
        evaluator = Evaluator(
            required_path("start", start), source, changes, path_text("data", data), CodePermission(every_file=allow_code)
        )
        with _session_of("evaluate", evaluator, run, device, threads, listener)(stop) as session:
            result, rows, _ = evaluator.score(session, each=predictions)
    return EvaluationResult.of(result, predictions=rows)


def generate(
    prompts: Prompts,
    overrides: Overrides | None = None,
    *,
    start: str | Path,
    chat: bool = False,
    precision: "Precision" = "auto",
    run: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> list[Completion]:
    """Continue each prompt with the checkpoint `start`. `overrides`: changed settings, such as {"generation.max_new_tokens": 20}.

    `chat`: a prompt is a user's message, a list of messages {"role", "content"}, or {"messages": such a list, "tools": ...}. A masked
    language model fills the masks in the prompt. `precision`: auto, float32, bf16 or int8. Raises Stopped if `should_stop` returns True.
    """
    from tfkit.engine.inference.text_generator import TextGenerator

    with isolated(), interrupts(should_stop) as stop:
        generator = TextGenerator(required_path("start", start), plain_overrides(overrides), chat=chat, precision=precision)
        with _session_of("generate", generator, run, device, threads, listener)(stop) as session:
            generator.load(session)
            completions = generator.all_completions(prompts)
            session.finish({"prompts": len(completions), "tokens": sum(completion.tokens for completion in completions)})
    return completions


def predict(
    rows: Iterable[Mapping[str, Any] | str] | Mapping[str, Any] | str,
    overrides: Overrides | None = None,
    *,
    start: str | Path,
    columns: Columns = None,
    all_labels: bool = False,
    precision: "Precision" = "auto",
    run: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> Iterator[dict[str, Any]]:
    """Yield each of `rows`, in their order, as a dict with the `prediction` of the checkpoint `start` and, for a label, its `probability`.

    Rows need no label, and are read up to 32 batches ahead. `all_labels`: also yield the `probabilities` of all labels. `precision`: auto,
    float32, bf16 or int8. `columns`: the column of each role, such as {"text": "body"}. Raises DataError for a bad row; with the override
    {"data.on_bad_row": "skip"}, it is yielded with an `error` in place of a prediction. Raises Stopped if `should_stop()` is True.
    """
    from tfkit.engine.inference.predicting import open_predictor

    changes = scored_overrides(plain_columns(columns), plain_overrides(overrides))
    predictor = open_predictor(required_path("start", start), changes, all_labels=all_labels, precision=precision)
    return _predictions(predictor, rows, _session_of("predict", predictor, run, device, threads, listener), should_stop)


def load(
    path: str | Path,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
    precision: "Precision" = "float32",
    verify: bool = True,
    **options: Any,
) -> "LoadedModel":
    """Load a checkpoint, a run folder (its best checkpoint, else its newest), a Hugging Face model folder, or hub:org/name@revision.

    An adapter of tfkit or peft is loaded as its base model with the updates added. `precision`: float32, bf16, int8 (a model in int8
    can answer, but can be neither trained nor saved), or auto; it is ignored if `dtype` is given. `verify`: compare the files with the
    hashes in manifest.json, if there is one. `options`: other arguments of tfkit.hub.load. Raises ModelError if `path` has no valid model.

    Example::

        loaded = tfkit.load("runs/my")  # .model (a torch.nn.Module)  .tokenizer  .config  .labels
        ids = torch.tensor([loaded.tokenizer.encode("the cat sat").ids])
        logits = loaded.model(ids).logits  # (1, tokens, vocabulary); of a classifier (1, classes)

        for row in loaded.predict([{"text": "what a film"}]):  # a list; for a model that was trained on labelled rows
            print(row["prediction"], row["probability"])
        loaded.generate("Once upon a time")[0].completion  # for a language model
        loaded.embed(["a text", "another"])  # (2, dim)
        loaded.save("folder")  # writes a model folder, with the same files as a training writes
    """
    from tfkit import adapters
    from tfkit.engine.inference.loaded_model import LoadedModel
    from tfkit.generation.answer_precision import open_in_precision
    from tfkit.training.device import has_bf16, named_device, pick_device

    folder, place = required_path("path", path), pick_device(None) if device == "auto" else named_device(device)

    def in_type(wanted: "torch.dtype") -> "Loaded":
        return adapters.load(folder, device=place, dtype=wanted, verify=verify, **options)

    opened = open_in_precision(in_type, precision, place, bool, has_bf16=has_bf16(place)).loaded if dtype is None else in_type(dtype)
    return LoadedModel(**{field.name: getattr(opened, field.name) for field in fields(opened)})


def average(
    run: str | Path, out: str | Path, *, last: int = 5, listener: Listener | None = None, should_stop: ShouldStop = None
) -> "Averaged":
    """Average the weights of the `last` newest checkpoints of a run, and write them to the model folder `out`, which must not exist yet.

    Returns, among other facts, the names of the averaged checkpoints. Raises UsageError for an invalid `out` or `last`,
    ModelError for checkpoints that are missing, damaged, LoRA adapters or of different runs, and MachineError if `out` cannot be written.
    """
    from tfkit.engine.tools.averaging import average_checkpoints, choose_checkpoints

    with isolated(), interrupts(should_stop) as stop, stop.at_once("nothing was written"):
        folder, target = Path(required_path("run", run)), Path(required_path("out", out))
        return average_checkpoints(choose_checkpoints(folder, target, last), target, listener or Silent())


def track(run: str | Path, *, to: str, project: str | None = None, listener: Listener | None = None) -> "list[Tracked]":
    """Send the metrics of a run, or of each stage or trial of a run, to a tracker: wandb, mlflow, trackio, aim or tensorboard.

    `project`: the project in the tracker, for mlflow and aim the experiment; None: "tfkit"; TensorBoard has none. Points that the tracker
    already has are not sent again. Raises UsageError for a folder without metrics, MachineError if the tracker is not installed or fails.
    """
    from tfkit.engine.tools.tracking import track_run

    return track_run(Path(required_path("run", run)), to, project, listener or Silent())


# ------------------------------------------------------------------------------------------------------ the arguments of these functions


def _request(
    kind: TrainingKind | None,
    recipe: AnyRecipe | None,
    overrides: Overrides | None,
    start: str | Path | None,
    data: str | Path | None,
    columns: Columns,
    tokens: int | None = None,
    minutes: float | None = None,
) -> TrainingRequest:
    source = recipe_text(recipe) if recipe is not None else None
    changes = with_length(plain_overrides(overrides), source, tokens, minutes)
    return training_request(kind, source, changes, path_text("start", start), path_text("data", data), plain_columns(columns), minutes)


def _start(request: TrainingRequest) -> Train:
    from tfkit.engine.chains.stages import run_stages
    from tfkit.engine.training_run.attempt import start_run

    return partial(run_stages if request.has_stages else start_run, request)


def _run_options(call: str, run: Path, allow_code: bool, **given: Any) -> "RunOptions":
    from tfkit.engine.planning.run_forecaster import RunForecaster
    from tfkit.engine.training_run.attempt import RunOptions

    require_count("threads", given["threads"])
    return RunOptions(run, RunForecaster(), command=[f"tfkit.{call}"], code=CodePermission(every_file=allow_code), **given)


def _until_stopped(
    train: Train, options: "RunOptions", ranks: int, should_stop: ShouldStop, listener: Listener | None
) -> dict[str, Any] | Stopped:
    """Return the result of a training, even if it was stopped; but if it was stopped before its first step, return the error Stopped."""
    from tfkit.engine.training_run.ranks_of_command import local_ranks

    try:
        with isolated(), interrupts(should_stop) as stop, local_ranks(ranks, options.run, options.threads) as connection:
            return train(replace(options, connection=connection), listener or Silent(), stop)
    except Stopped as stopped:
        return stopped.result or stopped


def _train(train: Train, options: "RunOptions", ranks: int, should_stop: ShouldStop, listener: Listener | None) -> TrainingResult:
    result = _until_stopped(train, options, ranks, should_stop, listener)
    if isinstance(result, Stopped):
        reason = {"status": "stopped", "stopped_early": True, "stopped_by": result.reason}
        result = {"run": str(options.run.resolve()), **reason, "steps": 0, "tokens": 0, "evaluation": {}, "gates": []}
    return TrainingResult.of_training(result)


def _sweep(train: Train, options: "RunOptions", ranks: int, should_stop: ShouldStop, listener: Listener | None) -> SweepResult:
    result = _until_stopped(train, options, ranks, should_stop, listener)
    if isinstance(result, Stopped):
        raise result
    return SweepResult.of(result)


def _session_of(
    command: str, opened: "OpenedCheckpoint", run: str | Path | None, device: str | None, threads: int | None, listener: Listener | None
) -> OpenSession:
    """Return a function that opens a call's session, with an energy meter. Raises UsageError if the folder `run` is among the inputs."""
    from tfkit.engine.inference.session import open_session

    require_count("threads", threads)
    folder = run_folder(run, "") if run is not None else None
    if folder is not None:
        opened.inputs.refuse_folder(folder, "run")
    carbon, words = opened.settings.carbon, [f"tfkit.{command}"]
    return lambda stop: open_session(command, carbon, folder, listener or Silent(), stop, device=device, threads=threads, words=words)


def _predictions(predictor: "RowAnswers", rows: Any, open_session: OpenSession, should_stop: ShouldStop) -> Iterator[dict[str, Any]]:
    """Yield the rows with their predictions. Between windows (lists) of rows, the process has the caller's seeds, threads and so on."""
    import torch

    with ExitStack() as stack:
        with isolated(), interrupts(should_stop) as stop, stop.at_once():
            session = stack.enter_context(open_session(stop))
            predictor.load(session)
        for window in predictor.unanswered(predictor.given_rows(rows)):  # not `isolated`: the caller's iterator may draw random numbers
            answered = f"{format_number_of(predictor.counts.rows, 'row')} answered"
            with isolated(), interrupts(should_stop) as stop, stop.at_once(answered):
                torch.set_num_threads(session.threads or torch.get_num_threads())
                lines, refusal = predictor.answered(window)
            yield from lines
            if refusal is not None:
                raise refusal
        for warning in predictor.warnings():
            session.listener.warn(warning)
        session.finish(predictor.result(session.own(session.meter.fresh_reading())))
