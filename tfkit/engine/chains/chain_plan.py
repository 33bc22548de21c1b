"""Plan a recipe with stages (a chain): check all stages, and choose those to run, before any starts. This module does not import torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tfkit.engine.listener import Listener
from tfkit.engine.request.gate import Gate, parse_gate, training_gates
from tfkit.engine.request.inputs import inputs_of
from tfkit.engine.request.rank_checks import require_divisible
from tfkit.engine.request.resuming import is_training_result, merged, resolve_resumption
from tfkit.engine.request.training_request import RequestRecord, TrainingKind, TrainingRequest, kind_of
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.errors import BudgetReached, ModelError, SpentBudgetError, Stopped, TfkitError, UsageError, argument
from tfkit.recipe import Chain, RecipeError, RecipeText, Stage, open_recipe, read_chain
from tfkit.recipe.reading.overrides import NO_OVERRIDES
from tfkit.run.best_json import best_checkpoint
from tfkit.run.checkpoints import newest_checkpoint
from tfkit.run.folder import RunFolder, is_begun
from tfkit.run.listing import read_run
from tfkit.run.manifest import verify
from tfkit.run.run_json import known_of, read_run_json, stage_folders

TOTALS = ("seconds", "energy_kwh", "emissions_g")  # totals of a chain that --fail-if may compare, besides its stages' metrics


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a chain as a run of its own, with its options. In its recipe, `source`, folders replace the names of earlier stages."""

    stage: Stage
    source: RecipeText
    options: RunOptions

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def request(self) -> TrainingRequest:
        """The request with which the stage is trained."""
        return TrainingRequest(kind_of(self.stage.recipe), self.source)

    def missing_stage(self) -> str | None:
        """Return the name of an earlier stage whose model this stage uses, and which has no checkpoint yet; None if there is none."""
        return next((name for name in self.stage.uses if not is_begun(self.options.run.parent / name)), None)

    def require_intact_stages(self) -> None:
        """Raise ModelError if this stage uses an earlier one whose result is missing, or names a checkpoint that is missing, damaged or no
        longer recorded as the best: this stage would start from another one. If this stage is finished, nothing is checked.
        """
        if read_run(self.options.run).status == "finished":
            return
        for name in self.stage.uses:
            run = self.options.run.parent / name
            result, root = read_run_json(run).result, run / "checkpoints"
            if not is_training_result(result):
                problems = [f"{run / 'run.json'}: has no result of a training"]
            elif not (problems := verify(used := root / Path((result.get("best") or result)["checkpoint"]).name)):
                found = best_checkpoint(root) or newest_checkpoint(root)
                problems = [] if found == used else [f"{root / 'best.json'}: does not name {used.name}, the best checkpoint"]
            if problems:
                raise ModelError(
                    f"the stage {name} is damaged: {'; '.join(problems)}. Restore it, or delete {run} to train that stage again"
                )


@dataclass(frozen=True)
class ChainPlan:
    """A checked chain, with the stages to run."""

    chain: Chain
    given: RequestRecord  # the request, as recorded in run.json
    folder: str  # the path of the chain's folder, as it is written into the recipes of stages that have not begun
    stages: tuple[PlannedStage, ...]
    todo: tuple[PlannedStage, ...]  # the stages that this command runs, in the order of the chain
    gates: tuple[Gate, ...]  # the conditions of --fail-if on totals over all stages
    continues: bool  # whether an earlier command has started the chain, and recorded its request in the folder's run.json


def is_chain(folder: Path) -> bool:
    """Whether a folder holds the run of a recipe with stages."""
    recipe = folder / "recipe.yaml"
    with suppress(UsageError):  # a recipe that cannot be read is reported later, as for a single run
        return bool(stage_folders(folder)) or (recipe.is_file() and open_recipe(str(recipe)).has_stages)
    return False


def plan_chain(now: RequestRecord, kind: TrainingKind | None, options: RunOptions) -> ChainPlan:
    """Check a chain, its stages and the conditions of --fail-if; return the chain's plan. Raises UsageError for a mistake in one of these.

    `now`: the request of this command; if it has no recipe, the chain in the run folder continues. `kind`: the kind of training with which
    the chain must begin; None: any.
    """
    recorded = known_of(options.run) if stage_folders(options.run) else None  # a damaged run.json is treated as a missing one
    begun = recorded is not None and any(map(is_begun, stage_folders(options.run).values()))
    before = RequestRecord.from_document(recorded.given) if recorded is not None and (begun or now.recipe is None) else None
    given = merged(before, now) if before is not None else now  # recorded overrides apply until `now` or the recipe file changes them
    if given.recipe is None:  # run.json was damaged, so the request is lost
        given = replace(given, recipe=open_recipe(str(options.run / "recipe.yaml")))
    assert given.recipe is not None
    chain = read_chain(given.recipe, given.overrides)
    _require_kind(chain, kind)
    selected = _selected(chain, options)
    texts, gates = _split_gates(options.fail_if, chain, selected)
    place = (recorded.folder if recorded is not None else None) or str(options.run)
    now_at = place if Path(place).resolve() == options.run.resolve() else str(options.run)  # another path, if the folder was moved
    stages = []
    for stage in chain.stages:
        stage_options = replace(options, run=options.run / stage.name, fail_if=tuple(texts[stage.name]), stages=())
        folder = _folder_of_begun(stage, stage_options.run) or Path(place) if is_begun(stage_options.run) else Path(now_at)
        stages.append(PlannedStage(stage, stage.placed(chain.source.path, folder), stage_options))
    todo = tuple(stage for stage in stages if stage.name in selected)
    plan = ChainPlan(chain, given, now_at, tuple(stages), todo, tuple(gates), before is not None)
    _check(plan, options)
    return plan


def _folder_of_begun(stage: Stage, run: Path) -> Path | None:
    """Return the path that the chain's folder had when a stage's run began, from the stage's recipe; None if the recipe has no such path.

    A stage that was begun keeps this path in its recipe even if the chain's folder is moved, so that the recipe does not seem changed.
    """
    with suppress(OSError, ValueError):
        given = RequestRecord.from_document(read_run_json(run).given)
        if given is not None and given.recipe is not None:
            return stage.folder_named_in(given.recipe.fields())
    return None


def _require_kind(chain: Chain, kind: TrainingKind | None) -> None:
    first, path = chain.stages[0], chain.source.path
    if kind in (None, kind_of(first.recipe)):
        return
    if kind == "fine-tuning":
        raise UsageError(
            f"{path}: the first stage, {first.name}, starts from random weights: use `tfkit pretrain`, or give {first.name} a checkpoint "
            "with model.from in place of its model"
        )
    raise UsageError(f"{path}: the first stage, {first.name}, starts from the checkpoint {first.recipe.model.start}: use `tfkit finetune`")


def _selected(chain: Chain, options: RunOptions) -> tuple[str, ...]:
    """Return the names of the stages to run, in the order of the chain."""
    for name in options.stages:
        if name not in chain.names:
            raise UsageError(f"{argument('stages')}: there is no stage {name!r}; the stages are {', '.join(chain.names)}")
    selected = tuple(name for name in chain.names if name in options.stages) if options.stages else chain.names
    for stage in chain.stages:
        for earlier in stage.uses if stage.name in selected else ():
            if earlier in selected:
                continue
            found = read_run(options.run / earlier)
            if found.status != "finished":
                state = "is not there" if found.status in ("foreign", "new") else f"is {found.status}"
                together = ",".join(name for name in chain.names if name in (*selected, earlier))
                raise UsageError(
                    f"{argument('stages')}: {stage.name} needs the stage {earlier}, whose run {options.run / earlier} {state}: run both, "
                    f"with {argument('stages', together)}"
                )
    return selected


def _split_gates(texts: Sequence[str], chain: Chain, selected: Sequence[str]) -> tuple[dict[str, list[str]], list[Gate]]:
    """Split the conditions of --fail-if (gates) into those of each stage, without the stage's name, and those on the totals.

    Raises UsageError for an invalid gate, and for a gate of a stage that is not `selected`, since that gate would never be checked.
    """
    metered = all(stage.recipe.carbon.enabled for stage in chain.stages)
    known = TOTALS if metered else TOTALS[:1]
    of_stages: dict[str, list[str]] = {name: [] for name in chain.names}
    gates: list[Gate] = []
    for text in texts:
        name, dot, rest = text.strip().partition(".")
        if dot and name in selected:
            of_stages[name].append(rest)
            continue
        with suppress(UsageError):
            gate = parse_gate(text, known)
            if gate.metric in known:
                gates.append(gate)
                continue
        raise UsageError(
            f"{argument('fail_if', repr(text))}: for a recipe with stages name STAGE.METRIC, where STAGE is one of "
            f"{', '.join(selected)}, as in '{selected[0]}.loss > 3'; or of all stages together {', '.join(known)}"
        )
    return of_stages, gates


def _check(plan: ChainPlan, options: RunOptions) -> None:
    """Check each selected stage that has not begun, as a command that trains only this stage does, before any stage starts."""
    inputs_of([plan.chain.source.path], [], []).refuse_folder(options.run, argument("run"))
    for name, run in stage_folders(options.run).items():
        if name not in plan.chain.names and is_begun(run):
            raise UsageError(
                f"{options.run}: the stage {name} was started here, and the recipe no longer has it. Add it again, or give another "
                f"{argument('run')}"
            )
    for planned in plan.todo:
        if is_begun(planned.options.run):
            if not options.resume:
                raise UsageError(
                    f"{options.run}: the stage {planned.name} was started here before. Continue with {argument('resume', True)}, or "
                    f"give another {argument('run')}"
                )
            continue
        with in_stage(planned.name):
            request = planned.request
            recipe = request.check()
            assert recipe is not None
            training_gates(planned.options.fail_if, recipe)
            require_divisible(recipe, options.ranks.size)
            request.inputs.refuse_folder(planned.options.run, argument("run"))
    _require_files(plan)


def _require_files(plan: ChainPlan) -> None:
    """Raise RecipeError for missing files that a later stage reads, since that stage would report them only after hours of earlier stages.

    Missing files of the first stage to run are reported when that stage starts.
    """
    waiting = {planned.name for planned in plan.todo[1:] if not is_begun(planned.options.run)}
    try:
        read_chain(plan.chain.source, plan.given.overrides, with_files=True)
    except RecipeError as error:
        if problems := [problem for problem in error.problems if problem.path[:1] and problem.path[0] in waiting]:
            raise RecipeError(problems) from None


def check_begun(plan: ChainPlan, listener: Listener) -> None:
    """Check that the stages with checkpoints can continue with their recipes. Raises UsageError, also if the length of a stage has changed
    after a later stage has started from its result.
    """
    for planned in plan.stages:
        if not is_begun(planned.options.run):
            continue
        with in_stage(planned.name), RunFolder.open(planned.options.run, resume=True, command=None, warn=listener.warn) as folder:
            resumption = resolve_resumption(folder, RequestRecord(planned.source, NO_OVERRIDES))
        later = next((other.name for other in plan.stages if planned.name in other.stage.uses and is_begun(other.options.run)), None)
        if later is not None and not resumption.same_end:
            lines = "\n  ".join(resumption.changes.values())
            raise UsageError(
                f"stage {planned.name}: the stage {later} has started from its end, so its length cannot change:\n  {lines}\n"
                f"Revert this change, or start the chain in another folder with {argument('run')}"
            )


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """A context that adds the name of a stage to the message of an error, and to the override that the message suggests."""
    try:
        yield
    except (Stopped, TfkitError) as error:
        error.args = (f"stage {name}: {error.args[0]}", *error.args[1:])
        if isinstance(error, BudgetReached | SpentBudgetError):
            error.larger = f"{name}.{error.larger}"
        raise
    except Exception as error:
        error.add_note(f"in the stage {name}")
        raise
