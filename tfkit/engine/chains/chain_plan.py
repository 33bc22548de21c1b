"""Plan a recipe with stages: check all stages, and choose those to run, before the first one starts. This module does not import torch."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfkit.engine.listener import Listener
from tfkit.engine.request.gate import Gate, parse_gate, training_gates
from tfkit.engine.request.inputs import inputs_of
from tfkit.engine.request.rank_checks import require_divisible
from tfkit.engine.request.resuming import is_training_result, merged, resolve_resumption
from tfkit.engine.request.training_request import RequestRecord, TrainingKind, TrainingRequest, kind_of
from tfkit.engine.training_run.attempt import RunOptions
from tfkit.errors import BudgetReached, ModelError, SpentBudgetError, TfkitError, UsageError, argument
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
    """A stage of a chain as a run of its own, with its options. In `source`, the names of earlier stages are replaced by their folders."""

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
        """Return the name of an earlier stage that this one uses and that has no checkpoint yet; None if all have one."""
        return next((name for name in self.stage.uses if not is_begun(self.options.run.parent / name)), None)

    def require_intact_stages(self) -> None:
        """Raise ModelError if this stage uses an earlier one whose result names a checkpoint that is missing or damaged, since otherwise
        the stage would start from another checkpoint. A finished stage does not use earlier stages again, so nothing is checked for it.
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
    """A chain to run, with the stages that this command runs."""

    chain: Chain
    given: RequestRecord  # the request, as recorded in run.json
    folder: str  # the path of the chain's folder in the recipes of its stages
    stages: tuple[PlannedStage, ...]
    selected: tuple[str, ...]  # the names of the stages that this command runs
    gates: tuple[Gate, ...]  # comparisons of the totals of all stages that must not be true
    continues: bool  # an earlier command has started the chain, and recorded its request in the folder's run.json

    @property
    def todo(self) -> list[PlannedStage]:
        """The stages that this command runs, in order."""
        return [stage for stage in self.stages if stage.name in self.selected]


def is_chain(folder: Path) -> bool:
    """Whether a folder holds the run of a recipe with stages."""
    recipe = folder / "recipe.yaml"
    with suppress(UsageError):  # a recipe that cannot be read is reported later, as that of a single run
        return bool(stage_folders(folder)) or (recipe.is_file() and open_recipe(str(recipe)).has_stages)
    return False


def plan_chain(now: RequestRecord, kind: TrainingKind | None, options: RunOptions) -> ChainPlan:
    """Check a chain, all of its stages and the gates, and return its plan. Raises UsageError for a mistake in any of them.

    `now`: the request of this command; without a recipe, the chain in the folder continues. `kind`: the kind of training that the command
    starts; None: any.
    """
    recorded = known_of(options.run) if stage_folders(options.run) else None  # a damaged run.json counts as none
    begun = recorded is not None and any(map(is_begun, stage_folders(options.run).values()))
    before = RequestRecord.from_document(recorded.given) if recorded is not None and (begun or now.recipe is None) else None
    given = merged(before, now) if before is not None else now  # recorded overrides apply until the user changes them or the recipe file
    if given.recipe is None:  # run.json was damaged, so the request is lost
        given = replace(given, recipe=open_recipe(str(options.run / "recipe.yaml")))
    assert given.recipe is not None
    chain = read_chain(given.recipe, given.overrides)
    _require_kind(chain, kind)
    selected = _selected(chain, options)
    texts, gates = _split_gates(options.fail_if, chain, selected)
    place = (recorded.folder if recorded is not None else None) or str(options.run)
    moved = Path(place).resolve() != options.run.resolve()
    stages = []
    for stage in chain.stages:
        stage_options = replace(options, run=options.run / stage.name, fail_if=tuple(texts[stage.name]), stages=())
        new_folder = options.run if moved else Path(place)
        folder = _folder_of_begun(stage, stage_options.run) or Path(place) if is_begun(stage_options.run) else new_folder
        stages.append(PlannedStage(stage, stage.placed(chain.source.path, folder), stage_options))
    plan = ChainPlan(chain, given, str(options.run) if moved else place, tuple(stages), selected, tuple(gates), before is not None)
    _check(plan, options)
    return plan


def _folder_of_begun(stage: Stage, run: Path) -> Path | None:
    """Return the path of the chain's folder that the run of a stage recorded when it began; None if it recorded none.

    A stage that was begun keeps this path in its recipe even if the chain's folder is moved, so that the recipe does not seem changed.
    """
    with suppress(OSError, ValueError):
        given = RequestRecord.from_document(read_run_json(run).given)
        if given is not None and given.recipe is not None:
            return stage.folder_named_in(given.recipe.fields())
    return None


def _require_kind(chain: Chain, kind: TrainingKind | None) -> None:
    first = chain.stages[0]
    first_kind = kind_of(first.recipe)
    if kind in (None, first_kind):
        return
    path = chain.source.path
    if first_kind == "pre-training":
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
                    f"{argument('stages')}: {stage.name} needs the stage {earlier}, whose run {options.run / earlier} {state}: run "
                    "both, with "
                    f"{argument('stages', together)}"
                )
    return selected


def _split_gates(texts: Sequence[str], chain: Chain, selected: Sequence[str]) -> tuple[dict[str, list[str]], list[Gate]]:
    """Return the gates (comparisons that must not be true) of each stage, without the stage's name, and those on the totals.

    Raises UsageError, also for a gate of a stage that is not `selected`, since it would never be checked.
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
        try:
            gate = parse_gate(text, known)
        except UsageError:
            gate = None
        if gate is None or gate.metric not in known:
            raise UsageError(
                f"{argument('fail_if', repr(text))}: for a recipe with stages name STAGE.METRIC, where STAGE is one of "
                f"{', '.join(selected)}, as in "
                f"'{selected[0]}.loss > 3'; or of all stages together {', '.join(known)}"
            )
        gates.append(gate)
    return of_stages, gates


def _check(plan: ChainPlan, options: RunOptions) -> None:
    """Check each stage to run as its own command would, so that a mistake in the last stage is found before the first one starts."""
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
        try:
            request = planned.request
            recipe = request.check()
            assert recipe is not None
            training_gates(planned.options.fail_if, recipe)
            require_divisible(recipe, options.ranks.size)
            request.inputs.refuse_folder(planned.options.run, argument("run"))
        except UsageError as error:
            raise of_stage(planned.name, error) from None
    _require_files(plan)


def _require_files(plan: ChainPlan) -> None:
    """Raise RecipeError for missing files that a later stage reads, since that stage would report them only after hours of earlier stages.

    Missing files of the first stage are reported when it starts.
    """
    waiting = {planned.name for planned in plan.todo[1:] if not is_begun(planned.options.run)}
    try:
        read_chain(plan.chain.source, plan.given.overrides, with_files=True)
    except RecipeError as error:
        if problems := [problem for problem in error.problems if problem.path[:1] and problem.path[0] in waiting]:
            raise RecipeError(problems) from None


def check_begun(plan: ChainPlan, listener: Listener) -> None:
    """Check that stages that have checkpoints can continue with their recipes. Raise UsageError if a stage has a new
    length, and a later stage has started from its result.
    """
    for planned in plan.stages:
        if not is_begun(planned.options.run):
            continue
        try:
            with RunFolder.open(planned.options.run, resume=True, command=None, warn=listener.warn) as folder:
                resumption = resolve_resumption(folder, RequestRecord(planned.source, NO_OVERRIDES))
        except TfkitError as error:
            raise of_stage(planned.name, error) from None
        later = next((other.name for other in plan.stages if planned.name in other.stage.uses and is_begun(other.options.run)), None)
        if later is not None and not resumption.same_end:
            lines = "\n  ".join(resumption.changes.values())
            raise UsageError(
                f"stage {planned.name}: the stage {later} has started from its end, so its length cannot change:\n  {lines}\n"
                f"Revert this change, or start the chain in another folder with {argument('run')}"
            )


def of_stage(name: str, error: Any) -> Any:
    """Return the error, changed to name its stage, also in the override that it suggests."""
    error.args = (f"stage {name}: {error.args[0]}", *error.args[1:])
    if isinstance(error, BudgetReached | SpentBudgetError):
        error.larger = f"{name}.{error.larger}"
    return error
