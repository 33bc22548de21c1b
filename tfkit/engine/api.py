"""The library: `tfkit.pretrain` and its kin, as docs/library.md shows them.

Nothing is printed unless a listener prints it, errors are the classes of tfkit.errors, and a call leaves its process as it found it.
`recipe` is a bundled name, a path, a dict or a Recipe; `overrides` is a dict of dotted names, or of sections.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tfkit.engine import attempt
from tfkit.engine.attempt import RunOptions
from tfkit.engine.isolation import isolated
from tfkit.engine.listener import Listener, Silent
from tfkit.engine.results import Completion, EvaluationResult, TrainingResult
from tfkit.errors import Stopped, UsageError
from tfkit.recipe import Recipe, RecipeText, open_recipe
from tfkit.recipe.dump import dump_document, recipe_document
from tfkit.run.signals import StopSignals

if TYPE_CHECKING:
    from tfkit.engine.estimate import Estimate
    from tfkit.engine.text_generator import TextGenerator

AnyRecipe = str | Path | Mapping[str, Any] | Recipe
Overrides = Mapping[str, Any] | None
ShouldStop = Callable[[], bool] | None


def pretrain(
    recipe: AnyRecipe,
    overrides: Overrides = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Train the model of a recipe from random weights, in the folder `run` (default: runs/<recipe>).

    `should_stop` is called between micro-batches; the result of a run that it stops has the status "stopped", and the unfinished step is
    dropped. KeyboardInterrupt is raised once the last whole step is saved. Raises the classes of tfkit.errors.
    """
    source, words = _recipe_text(recipe), _words(overrides)
    options = RunOptions(_folder(run, source), resume, exact, force, device, threads, ["tfkit.pretrain"])
    return _trained(options, should_stop, lambda stop: attempt.pretrain(source, words, options, listener or Silent(), stop))


def finetune(
    recipe: AnyRecipe | None = None,
    overrides: Overrides = None,
    *,
    start: str | Path | None = None,
    data: str | Path | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Train the checkpoint `start` further, on `data` or the recipe's own. Without a recipe the task is read from the data and the model.

    For the rest see `pretrain`.
    """
    words = _words(overrides)
    if data is not None:  # before the others, so that data.train.0.columns can name columns
        words.insert(0, _word("data.train", [{"path": str(data)}]))
    if start is not None:
        words.append(_word("model.from", str(start)))
    source = _recipe_text(recipe) if recipe is not None else None
    folder = _folder(run, source) if run is not None or source is not None else Path("runs") / attempt.recognition_of(words).run_name
    options = RunOptions(folder, resume, exact, force, device, threads, ["tfkit.finetune"])
    checkpoint = str(start) if start is not None else None
    return _trained(options, should_stop, lambda stop: attempt.finetune(source, words, checkpoint, options, listener or Silent(), stop))


def resume(
    run: str | Path,
    overrides: Overrides = None,
    *,
    exact: bool = False,
    force: bool = False,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> TrainingResult:
    """Go on with the run in a folder as it was started; a finished one repeats its result. For the rest see `pretrain`."""
    options = RunOptions(Path(run), True, exact, force, device, threads, ["tfkit.resume"])
    return _trained(options, should_stop, lambda stop: attempt.resume(_words(overrides), options, listener or Silent(), stop))


def evaluate(
    recipe: AnyRecipe | None = None,
    overrides: Overrides = None,
    *,
    start: str | Path,
    data: str | Path | None = None,
    predictions: bool = False,
    run: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> EvaluationResult:
    """Score the checkpoint `start` on `data`, else on the recipe's data.validation, else on that of the run that made it.

    Raises Stopped where `should_stop` says so: half a score is none.
    """
    from tfkit.engine.scoring.evaluator import Evaluator
    from tfkit.engine.session import session

    with isolated(), _interrupts(should_stop) as stop:
        source = _recipe_text(recipe) if recipe is not None else None
        evaluator = Evaluator(str(start), source, _words(overrides), str(data) if data else None)
        if run is not None:
            evaluator.inputs.refuse_folder(Path(run), "run")
        folder = Path(run) if run is not None else None
        carbon = evaluator.settings.carbon
        with session("evaluate", carbon, folder, listener or Silent(), stop, threads=threads, words=["tfkit.evaluate"]) as work:
            result, rows, _ = evaluator.score(work, device, threads, each=predictions)
    return EvaluationResult.of(result, predictions=rows)


def generate(
    prompts: str | Sequence[str] | Sequence[Sequence[Mapping[str, str]]],
    overrides: Overrides = None,
    *,
    start: str | Path,
    chat: bool = False,
    run: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    listener: Listener | None = None,
    should_stop: ShouldStop = None,
) -> list[Completion]:
    """Continue each prompt with the checkpoint `start`, in order. `overrides`: {"generation.max_new_tokens": 20}.

    `chat`: a prompt is what a user says, or a list of messages {"role", "content"}. A masked language model fills the masks.
    Raises Stopped.
    """
    from tfkit.engine.inputs import inputs_of
    from tfkit.engine.session import session
    from tfkit.engine.settings import PROMPTS_AT_ONCE
    from tfkit.engine.text_generator import TextGenerator

    everything = [prompts] if isinstance(prompts, str) else list(prompts)
    found: list[Completion] = []
    with isolated(), _interrupts(should_stop) as stop:
        generator = TextGenerator(str(start), _words(overrides), chat=chat)
        folder, carbon = Path(run) if run is not None else None, generator.settings.carbon
        if folder is not None:
            inputs_of([], [], [generator.folder, str(start)]).refuse_folder(folder, "run")
        with session("generate", carbon, folder, listener or Silent(), stop, threads=threads, words=["tfkit.generate"]) as work:
            generator.load(work, device, threads)
            for first in range(0, len(everything), PROMPTS_AT_ONCE):
                found += _completions(generator, everything[first : first + PROMPTS_AT_ONCE], first)
                stop.raise_if_requested(f"{len(found):,} prompts were continued")
            work.finish({"prompts": len(found), "tokens": sum(one.tokens for one in found)})
    return found


def plan(recipe: AnyRecipe, overrides: Overrides = None, *, device: str | None = None, listener: Listener | None = None) -> "Estimate":
    """Estimate a run without starting it: text is tokenized, as for the run itself, and no weights are made."""
    from tfkit.engine.run import Run
    from tfkit.engine.session import session
    from tfkit.recipe.schema.sections import CarbonSection
    from tfkit.training.device import pick_device

    planned = _recipe_text(recipe).read(_words(overrides))
    attempt.require_trainable(planned)
    with isolated(), _interrupts(None) as stop, session("plan", CarbonSection(enabled=False), None, listener or Silent(), stop) as work:
        run = Run(planned, pick_device(device), work.listener, stop, work.meter)
        return run.prepare()


def _completions(generator: "TextGenerator", prompts: list[Any], first: int) -> list[Completion]:
    shown = [prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False) for prompt in prompts]
    if generator.fills_masks:
        filled = zip(shown, generator.fill(shown, first), strict=True)
        return [Completion(prompt, one.text, len(one.candidates), "stop") for prompt, one in filled]
    texts = shown
    if generator.chat:
        turns = [[{"role": "user", "content": one}] if isinstance(one, str) else [*map(dict, one)] for one in prompts]
        with generator.template() as template:
            texts = [
                template.render(turn, add_generation_prompt=True, place=f"prompt {number}") for number, turn in enumerate(turns, first + 1)
            ]
    found = zip(shown, generator.complete(texts, first), strict=True)
    return [Completion(prompt, one.text, one.tokens, one.finish) for prompt, one in found]


class _Interrupts(StopSignals):
    """A stop request by Ctrl-C, which is held back until nothing is lost, or by the caller's callable. A third Ctrl-C does not wait."""

    def __init__(self, asked: Callable[[], bool]):
        super().__init__(("SIGINT",))
        self._asked = asked

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed, or the callable says so."""
        return super().should_stop() or self._asked()

    def raise_if_requested(self, message: str = "nothing was lost") -> None:
        """Raise Stopped if the computation is to end."""
        super().raise_if_requested(message)
        if self._asked():
            raise Stopped(f"stopped: {message}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._count == 2:  # a third signal kills a command, and would kill a notebook's kernel
            raise KeyboardInterrupt
        super()._handle(number, frame)


@contextmanager
def _interrupts(should_stop: ShouldStop) -> Iterator[_Interrupts]:
    """Hold Ctrl-C back in the block, and raise KeyboardInterrupt after it, in place of the Stopped that it leads to."""
    with _Interrupts(should_stop or (lambda: False)) as stop:
        try:
            yield stop
        except Stopped:
            if stop.requested is None:
                raise
    if stop.requested is not None:  # also where it came too late to stop anything
        raise KeyboardInterrupt


def _trained(options: RunOptions, should_stop: ShouldStop, train: Callable[[_Interrupts], dict[str, Any]]) -> TrainingResult:
    try:
        with isolated(), _interrupts(should_stop) as stop:
            result = train(stop)
    except Stopped as stopped:
        nothing = {"run": str(options.run.resolve()), "status": "stopped", "steps": 0, "tokens": 0, "evaluation": {}, "stopped_early": True}
        return TrainingResult.of(stopped.result or nothing)
    return TrainingResult.of(result)


def _recipe_text(recipe: AnyRecipe) -> RecipeText:
    """The text of a recipe in any of its forms."""
    if isinstance(recipe, str | Path):
        return open_recipe(str(recipe))
    document = recipe_document(recipe, None) if isinstance(recipe, Recipe) else dict(recipe)
    try:
        return RecipeText(Path("<recipe>"), dump_document(document))  # no file has this name
    except Exception as error:  # of the YAML library: a value that a recipe cannot hold
        raise UsageError(f"the recipe holds a value that YAML does not have: {error}") from error


def _words(overrides: Overrides) -> list[str]:
    """Overrides as key=value."""
    return [_word(name, value) for name, value in (overrides or {}).items()]


def _word(name: str, value: Any) -> str:
    try:
        return f"{name}={json.dumps(value, ensure_ascii=False, default=str)}"
    except ValueError as error:
        raise UsageError(f"{name}: a value that a recipe cannot hold: {error}") from error


def _folder(run: str | Path | None, source: RecipeText | None) -> Path:
    if run is not None:
        return Path(run)
    assert source is not None
    return Path("runs") / source.name
