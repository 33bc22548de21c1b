"""The library's evaluate, generate and predict, which use a checkpoint and do not train."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.alignment.user_code import CodePermission
from tfkit.engine.library.argument_names import naming_arguments
from tfkit.engine.library.calls import AnyRecipe, Overrides, ShouldStop, interrupts, recipe_text, words_of
from tfkit.engine.listener import Listener, Silent, StopRequest
from tfkit.engine.results import Completion, EvaluationResult
from tfkit.engine.training_run.isolation import isolated

if TYPE_CHECKING:
    from tfkit.engine.inference.row_answers import RowAnswers
    from tfkit.engine.inference.session import Session
    from tfkit.engine.request.evaluation_settings import Opened
    from tfkit.generation.answer_precision import Precision

OpenSession = Callable[[StopRequest], AbstractContextManager["Session"]]


@naming_arguments()
def evaluate(
    recipe: AnyRecipe | None = None,
    overrides: Overrides = None,
    *,
    start: str | Path,
    data: str | Path | None = None,
    predictions: bool = False,
    allow_code: bool = False,
    run: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> EvaluationResult:
    """Score the checkpoint `start` on `data`, else on the recipe's data.validation, else on that of the run that made it.

    `allow_code`: run the code that the recipe names, also if it was not allowed before. Raises Stopped if `should_stop` returns True: a
    score of a part of the rows is discarded.
    """
    from tfkit.engine.inference.evaluator import Evaluator

    with isolated(), interrupts(should_stop) as stop:
        source = recipe_text(recipe) if recipe is not None else None
        evaluator = Evaluator(str(start), source, words_of(overrides), str(data) if data else None, CodePermission.of_user(allow_code))
        with _session_of("evaluate", evaluator, run, device, threads, listener)(stop) as work:
            result, rows, _ = evaluator.score(work, each=predictions)
    return EvaluationResult.of(result, predictions=rows)


@naming_arguments()
def generate(
    prompts: str | Sequence[str] | Sequence[Sequence[Mapping[str, Any]]] | Sequence[Mapping[str, Any]],
    overrides: Overrides = None,
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
    """Continue each prompt with the checkpoint `start`, in order. `overrides`: {"generation.max_new_tokens": 20}.

    `chat`: a prompt is a user's message, or a list of messages {"role", "content"}, or {"messages": that list, "tools": ...}. A masked
    language model fills the masks. `precision`: auto, float32, bf16 or int8, as --precision. Raises Stopped.
    """
    from tfkit.engine.inference.text_generator import TextGenerator

    with isolated(), interrupts(should_stop) as stop:
        generator = TextGenerator(str(start), words_of(overrides), chat=chat, precision=precision)
        with _session_of("generate", generator, run, device, threads, listener)(stop) as work:
            generator.load(work)
            completions = generator.all_completions(prompts)
            work.finish({"prompts": len(completions), "tokens": sum(completion.tokens for completion in completions)})
    return completions


@naming_arguments()
def predict(
    rows: Iterable[Mapping[str, Any] | str] | Mapping[str, Any] | str,
    overrides: Overrides = None,
    *,
    start: str | Path,
    all_labels: bool = False,
    precision: "Precision" = "auto",
    run: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> Iterator[dict[str, Any]]:
    """Yield each row, a dict or a text alone, with the `prediction` and `probability` that the checkpoint `start` gives it, in order.

    Rows need no label, and are read a few batches ahead. `all_labels`: also the `probabilities` of all labels. `precision`: auto, float32,
    bf16 or int8, as --precision. `overrides`: {"data.validation.0.columns": {"text": "body"}}. Raises DataError for a row that cannot be
    read; with {"data.on_bad_row": "skip"} it is yielded with an `error` in place of a prediction. Raises Stopped.
    """
    from tfkit.engine.inference.predicting import open_predictor

    predictor = open_predictor(start, words_of(overrides), all_labels=all_labels, precision=precision)
    return _predictions(predictor, rows, _session_of("predict", predictor, run, device, threads, listener), should_stop)


def _predictions(predictor: "RowAnswers", rows: Any, session: OpenSession, should_stop: ShouldStop) -> Iterator[dict[str, Any]]:
    """Load the model when the first row is requested. Between two windows the process has the caller's own state."""
    import torch

    answers = predictor.answers(predictor.given_rows(rows))
    with ExitStack() as stack:
        with naming_arguments(), isolated(), interrupts(should_stop) as stop, stop.at_once():
            work = stack.enter_context(session(stop))
            predictor.load(work)
        while True:
            answered = f"{predictor.counts.rows:,} rows were answered"
            with naming_arguments(), isolated(), interrupts(should_stop) as stop, stop.at_once(answered):
                torch.set_num_threads(work.threads or torch.get_num_threads())
                window = next(answers, None)
            if window is None:
                break
            yield from window
        for warning in predictor.warnings():
            work.listener.warn(warning)
        work.finish(predictor.result(work.own(work.meter.fresh_reading())))


def _session_of(
    command: str, opened: "Opened", run: str | Path | None, device: str | None, threads: int | None, listener: Listener | None
) -> OpenSession:
    """Return a function that opens the session of a call for a stop request. Raises UsageError for a run folder among the inputs."""
    from tfkit.engine.inference.session import session

    folder = Path(run) if run is not None else None
    if folder is not None:
        opened.inputs.refuse_folder(folder, "run")
    carbon, words = opened.settings.carbon, [f"tfkit.{command}"]
    return lambda stop: session(command, carbon, folder, listener or Silent(), stop, device=device, threads=threads, words=words)
