"""Open a checkpoint for an objective: as a base model, with a new head if the objective needs one, or as a finished model to evaluate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.adapters import base_folder, describe, how_to_merge, is_adapter, load
from tfkit.engine.request.evaluation_settings import EvaluationSettings
from tfkit.errors import ModelError, UsageError, argument
from tfkit.families import FAMILIES
from tfkit.hub import Described, Loaded, content_hash, run_id_of
from tfkit.hub.config_json import TRAINING_ONLY_FIELDS, apply_changes, are_unnamed
from tfkit.model.config import ClassesHeadConfig, HeadConfig, LanguageModelHeadConfig, ModelConfig, TagsHeadConfig
from tfkit.model.transformer import Transformer, with_fewer_positions, with_more_entries
from tfkit.objectives.context import ModelContext
from tfkit.objectives.objective import Objective
from tfkit.objectives.registry import objective_tokenizer, open_objective
from tfkit.recipe import read_recipe
from tfkit.recipe.presets import new_head
from tfkit.recipe.reading.checks import fitting_problems
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.sections import ModelSection, Recipe
from tfkit.run.ancestors import Parent
from tfkit.run.folder import RunFolder
from tfkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class Start:
    """A base checkpoint whose weights are not loaded yet, and the facts that a run records about it."""

    path: str  # as in the recipe's model.from
    described: Described
    sha256: str  # a hash of the weights and configuration
    run_id: str | None  # the id of the run that made the checkpoint; None: tfkit did not make it

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. Raises ModelError if it has none."""
        return self.described.require_tokenizer()

    def parent(self) -> dict[str, str | None]:
        """Return the checkpoint's entry in the list `parents` of tfkit.json: the models from which the run's model is made."""
        return {"role": "start", "path": self.path, "run_id": self.run_id, "sha256": self.sha256}


def open_start(section: ModelSection) -> Start:
    """Return the checkpoint of the recipe's `model: {from: CKPT}`.

    Raises ModelError if the checkpoint cannot be read, or if its hash is not the recipe's model.sha256.
    """
    assert section.start is not None
    described = describe(section.start)
    sha256 = content_hash(described.folder)
    if section.sha256 not in (None, sha256):
        raise ModelError(
            f"model.from: {section.start} has changed since this recipe was run: the SHA-256 of its weights was {section.sha256} and is "
            f"now {sha256}. Restore it, or remove model.sha256 to start from it as it is now"
        )
    return Start(section.start, described, sha256, run_id_of(described.folder))


def kept_labels(start: Start, recipe: Recipe, labels: list[str]) -> list[str]:
    """Return the checkpoint's classes if its head can be kept for `labels`, the run's classes; else return `labels`.

    The head is kept if it is of the objective's kind, the checkpoint's classes include all `labels`, and the recipe names no
    classes. Raises UsageError if the recipe names the checkpoint's classes in another order.
    """
    own, head = list(start.described.labels), start.described.config.head.kind
    named = recipe.objective.named_labels
    if named and head == recipe.objective.head:
        check_order(start.path, own, named)
    known = not named and head == recipe.objective.head and {*labels} <= {*own}
    return own if known and labels else labels


def check_order(checkpoint: str, own: Sequence[str], named: Sequence[str]) -> None:
    """Raise UsageError if a recipe names a checkpoint's classes in another order: outputs would get the wrong names."""
    if [*named] != [*own] and {*named} == {*own}:
        raise UsageError(
            f"objective.labels: {checkpoint} has these classes in another order, and its head would take one for another; "
            f"name them as it does, {', '.join(own)}, or leave objective.labels out"
        )


def has_other_labels(start: Start, head: HeadConfig, labels: Sequence[str]) -> bool:
    """Whether `head` is of the same kind as the checkpoint's head but for other classes, so that it must be trained anew.

    If the checkpoint's classes have only the default names (LABEL_0 and so on), any names for the same number of classes fit.
    """
    own, known = start.described.config.head, start.described.labels
    if head.kind != own.kind or not isinstance(own, ClassesHeadConfig | TagsHeadConfig):
        return False
    assert isinstance(head, ClassesHeadConfig | TagsHeadConfig)
    if head.count != own.count:
        return True
    return bool(labels) and tuple(labels) != known and not are_unnamed(known)


def has_new_head(start: Start, config: ModelConfig, labels: Sequence[str]) -> bool:
    """Whether the head of `config` cannot be taken from the checkpoint, so that it begins with random weights.

    A language model's head is not new if only its soft cap or scale differs, since these have no weights. It is not new either if
    only the checkpoint ties the output matrix to the embedding, since the untied matrix begins as a copy of the embedding.
    """
    own, head = start.described.config.head, config.head
    if isinstance(own, LanguageModelHeadConfig) and isinstance(head, LanguageModelHeadConfig):
        return (head.bias, head.choices) != (own.bias, own.choices)
    return head != own or has_other_labels(start, head, labels)


def tuned_config(start: Start, recipe: Recipe, labels: Sequence[str], tokenizer: Tokenizer) -> ModelConfig:
    """Return the checkpoint's configuration with the recipe's changes, the objective's head, and vocabulary entries for new tokens.

    `tokenizer`: the run's, which may have more tokens than the checkpoint's. Raises ModelError if the configuration does not fit the
    objective or the sizes of the weights, UsageError for other changes that the checkpoint does not allow.
    """
    config, described = apply_changes(start.described.config, recipe.model.changes), start.described
    if tokenizer.size > start.tokenizer.size:
        config = config.model_copy(update={"vocab_size": max(config.vocab_size, tokenizer.size)})
    if "head" not in recipe.model.changes:
        family = FAMILIES.get(described.family)
        same = tuple(labels) == described.labels
        if (head := new_head(recipe.objective, family, config, len(labels) or 1, same_labels=same)) is not None:
            config = apply_changes(config, {"head": head})
    own = described.config
    if unfit := [*fitting_problems(recipe.objective, config), *_unlike_weights(own, config)]:
        raise ModelError(f"{start.path}: " + "; ".join(unfit))
    problems = _adapter_problems(recipe, described, config)
    if config.vocab_size < own.vocab_size:
        problems.append(
            f"has {own.vocab_size:,} entries in its vocabulary, and none can be removed: model.vocab_size is {config.vocab_size:,}"
        )
    if config.position.kind == "learned" and config.context_length > own.context_length:
        problems.append(
            f"has {own.context_length:,} learned positions, and no more can be added: model.context_length is {config.context_length:,}"
        )
    if own.head.kind == config.head.kind and config.tied and not own.tied:
        problems.append("has an output matrix of its own, and model.head.tied is true: remove it")
    if problems:
        raise UsageError(f"{start.path}: " + "; ".join(problems))
    return config


def _unlike_weights(own: ModelConfig, wanted: ModelConfig) -> list[str]:
    """Return a message for each size of `wanted`, the run's configuration, that differs from that of `own`, the checkpoint's."""
    sizes = {name: (getattr(own, name), getattr(wanted, name)) for name in ("encoder_layers", "decoder_layers", "dim", "hidden_dim")}
    for name in ("num_heads", "num_kv_heads"):  # the shapes of matrices depend only on the number of heads times a head's width
        if getattr(own, name) * own.head_dim != getattr(wanted, name) * wanted.head_dim:
            sizes[name] = getattr(own, name), getattr(wanted, name)
    return [
        f"has weights for {name} {has:,}, and model.{name} is {asked:,}: remove it" for name, (has, asked) in sizes.items() if has != asked
    ]


def _adapter_problems(recipe: Recipe, described: Described, config: ModelConfig) -> list[str]:
    """Return why the run cannot save an adapter alone: an adapter holds LoRA updates and a head, so all else must be as in the base.

    Return no reasons if the run trains no adapter, or merges it into the base model.
    """
    if recipe.training.adapter is None or recipe.training.adapter.merge:
        return []
    if is_adapter(described.folder):
        return [
            f"is an adapter, and an adapter of an adapter is not supported: merge it first "
            f"({how_to_merge(described.folder)}), or set training.adapter.merge=true"
        ]
    own, wanted = (model.model_dump(exclude={*TRAINING_ONLY_FIELDS, "head"}) for model in (described.config, config))
    different = [name for name in own if own[name] != wanted[name]]
    if not different:
        return []
    if "vocab_size" in different:
        added = config.vocab_size - described.config.vocab_size
        return [
            f"has no entry in its vocabulary for {added} tokens that this objective needs, and an adapter cannot add any: train "
            "without an adapter, or start from a checkpoint whose tokenizer has them"
        ]
    names = ", ".join(different)
    return [
        f"{names} would differ, and an adapter changes weights and the head only: set training.adapter.merge, or train without an adapter"
    ]


def start_model(
    recipe: Recipe, start: Start, config: ModelConfig, labels: Sequence[str], *, defer_blocks: bool = False
) -> tuple[Transformer, tuple[str, ...]]:
    """Return the model of `config` with the checkpoint's weights, and the names of parameters that are drawn at random instead.

    `defer_blocks`: leave the blocks on the meta device, until the model's `fill_block` loads them one by one.
    """
    own = start.described.config
    head = config.head if config.head != own.head or recipe.model.changes.get("head") else None
    has_others = has_other_labels(start, config.head, labels)
    cut = own.position.kind == config.position.kind == "learned" and config.context_length < own.context_length
    later = ("head", "vocab_size", *(["context_length"] if cut else []))  # the head has its own argument; embeddings are resized later
    changes = {name: value for name, value in recipe.model.changes.items() if name not in later}
    seed, folder = recipe.training.seed, start.described.folder
    loaded = load(folder, head=head, other_labels=has_others, changes=changes, seed=seed, defer_blocks=defer_blocks)
    model = with_fewer_positions(loaded.model, config.context_length) if cut else loaded.model
    if (added := config.vocab_size - loaded.config.vocab_size) <= 0:
        return model, loaded.new_parameters
    grown = with_more_entries(model, config.vocab_size, seed)
    return grown, (*loaded.new_parameters, f"the last {f'{added} entries' if added > 1 else 'entry'} of the vocabulary")


def open_finished(section: ObjectiveSection, loaded: Loaded, settings: EvaluationSettings) -> tuple[Objective, Tokenizer]:
    """Return the objective of `section` for a trained model, and its tokenizer. Raises ModelError if the model does not fit."""
    if problems := fitting_problems(section, loaded.config):
        raise ModelError(f"{loaded.folder}: {'; '.join(problems)}; give a recipe with the objective that it was trained for")
    assert loaded.codec is not None
    tokenizer = objective_tokenizer(section, loaded.codec, is_finished=True)
    labels, facts = _finished_labels(section, loaded), loaded.facts
    context = ModelContext(loaded.config, tokenizer, labels, settings.seed, loaded.folder, facts, settings.sequence_length)
    return open_objective(section, context), tokenizer


def _finished_labels(section: ObjectiveSection, loaded: Loaded) -> list[str]:
    """Return the names of the model's classes, in the order of its outputs: those in objective.labels, else those in its config.json.

    Empty for an objective without classes. Raises UsageError if objective.labels does not fit the model, ModelError if no names are known.
    """
    if not section.has_labels:
        return []
    if named := section.named_labels:
        count = getattr(loaded.config.head, "count", 0)
        if len(named) != count:
            raise UsageError(
                f"objective.labels names {len(named)} classes, and {loaded.folder} has {count}: name all, in its order, or leave it out"
            )
        check_order(str(loaded.folder), loaded.labels, named)
        return named
    if not loaded.labels:
        raise ModelError(f"{loaded.folder}: config.json names no labels (id2label), so its classes are not known; name them there")
    return list(loaded.labels)


def pin_models(recipe: Recipe, start: Start | None, objective: Objective, folder: RunFolder) -> Recipe:
    """Return the recipe with the hashes of its base model and companions (such as a teacher).

    Raises ModelError if the run in `folder` has begun with other hashes.
    """
    named, update = [(f"objective.{one.name}", one.path, one.sha256) for one in objective.recorded_companions], dict[str, Any]()
    if named:
        update["objective"] = recipe.objective.pinned({one.name: one.sha256 for one in objective.recorded_companions})
    if start is not None:
        named.insert(0, ("model.from", start.path, start.sha256))
        update["model"] = recipe.model.pinned(start.sha256)
    if folder.has_checkpoints and folder.recipe.exists():
        begun = read_recipe(str(folder.recipe)).recipe
        before = {f"objective.{name}": sha256 for name, sha256 in begun.objective.pins.items()}
        # If the user has removed model.sha256 from the folder's recipe, any checkpoint is accepted.
        before["model.from"] = begun.model.sha256 or (start.sha256 if start is not None else None)
        for field, path, now in named:
            if before.get(field) != now:
                raise ModelError(
                    f"{field}: {path} has changed since this run was started: the SHA-256 of its weights was {before.get(field)} and is "
                    f"now {now}. Restore it, or start another run with {argument('run')}; to continue a run, name one of its checkpoints"
                )
    return recipe.model_copy(update=update)


def parent_of(entry: Mapping[str, str | None], folder: Path | None) -> Parent:
    """Return a model on which a run is based, from its entry in tfkit.json and its folder. An adapter is returned with its base model."""
    role, path = (str(entry[name]) for name in ("role", "path"))
    base = None
    if folder is not None and is_adapter(folder):
        own = base_folder(folder)
        base = Parent("base", str(own), own, run_id_of(own), content_hash(own))
    return Parent(role, path, folder, entry["run_id"], entry["sha256"], base)
