"""Prepare the training data of a recipe: from its sources and base checkpoint to the tokenizer, the objective and the encoded rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tfkit.alignment.user_code import CodePermission, read_code
from tfkit.carbon import Meter
from tfkit.data import ExampleSet, Source, TokenStream, example_set, token_stream, trained_tokenizer
from tfkit.data.columns.rows import describe_skipped, find_labels
from tfkit.data.sources.open_sources import pretraining_sources, training_sources, validation_sources
from tfkit.data.store.hashes import texts_digest
from tfkit.data.store.overlap import overlap
from tfkit.engine.assembly.base_model import Start, kept_labels, open_start, tuned_config
from tfkit.engine.assembly.memory_plan import require_memory_for_companions
from tfkit.engine.assembly.preflight import check_lost, check_openings, misfit, with_lost
from tfkit.engine.listener import Listener, StoppingListener, StopRequest
from tfkit.errors import ModelError
from tfkit.evaluation.lost_rows import LostRow, scored_examples
from tfkit.hub import find_checkpoint
from tfkit.model.config import ModelConfig
from tfkit.objectives.context import ModelContext, Stored, tokens_of
from tfkit.objectives.objective import Objective
from tfkit.objectives.registry import objective_tokenizer, open_objective
from tfkit.parallel.ranks import ALONE, Peers
from tfkit.recipe import model_config
from tfkit.recipe.presets import task_head
from tfkit.recipe.schema import data_sections
from tfkit.recipe.schema.data_sections import DataSection
from tfkit.recipe.schema.roles import TEXT
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.verified import check_files
from tfkit.tokenizer import Tokenizer, load_tokenizer
from tfkit.tokenizer.tokenizer_files import TOKENIZER_FILES
from tfkit.training.device import pick_precision

if TYPE_CHECKING:
    from tfkit.alignment.feedback import FeedbackEncoder
    from tfkit.alignment.rewards import Rules


@dataclass(frozen=True)
class ValidationSet:
    """Held-out rows of one source. `name`: the prefix of the names of the set's metrics if there are several sets."""

    name: str
    stored: Stored
    source: Source
    lost: Sequence[LostRow] = ()  # valid rows that the model cannot process; if answers are scored, they count as wrong

    @property
    def examples(self) -> ExampleSet:
        """The encoded rows. The objective must be one that reads labelled rows."""
        assert isinstance(self.stored, ExampleSet)
        return self.stored


@dataclass(frozen=True)
class TrainingData:
    """The encoded rows of a training, with the tokenizer, the model's configuration and the objective."""

    tokenizer: Tokenizer
    labels: list[str]  # the names of classes or tags; empty for objectives without them
    config: ModelConfig
    objective: Objective
    train: list[tuple[Stored, float]]  # the rows of each source, with its weight
    validation: list[ValidationSet]
    start: Start | None = None  # the base checkpoint; None: random weights
    pretraining: Sequence[tuple[TokenStream, float]] = ()  # text that is mixed into the steps, each source with its weight
    rules: "Rules | None" = None  # reward rules for sampled responses; None: no responses are sampled, or the training is only planned

    @property
    def code_hashes(self) -> list[str]:
        """The SHA-256 of each file with a reward function."""
        return self.rules.code_hashes if self.rules is not None else []

    def fingerprints(self) -> dict[str, list[str]]:
        """Return hashes of training, validation and pretraining data and of reward functions. A resumed run must have the same hashes."""
        train, validation = [stored.fingerprint for stored, _ in self.train], [held_out.stored.fingerprint for held_out in self.validation]
        hashes = {"train": train, "validation": validation}
        hashes |= {"pretraining": [stream.fingerprint for stream, _ in self.pretraining]} if self.pretraining else {}
        return hashes | ({"code": self.code_hashes} if self.code_hashes else {})

    def held_out(self) -> list[str]:
        """Return a hash of each validation set, equal for equal rows. For plain text, the hash does not depend on the tokenizer."""
        stored = [one.stored for one in self.validation]
        return [texts_digest(one.texts) if isinstance(one, TokenStream) else one.fingerprint for one in stored]

    def sizes(self) -> dict[str, dict[str, int]]:
        """Return the numbers of rows (for plain text, of documents) and tokens, for the training and the validation data."""
        parts = {"train": [stored for stored, _ in self.train], "validation": [held_out.stored for held_out in self.validation]}
        sizes: dict[str, dict[str, int]] = {}
        for part, stored in parts.items():
            units = "rows" if any(isinstance(one, ExampleSet) for one in stored) else "documents"
            sizes[part] = {units: sum(map(len, stored)), "tokens": sum(map(tokens_of, stored))}
        return sizes


@dataclass(frozen=True)
class RowStore:
    """Reads rows of sources, encoded for an objective, from the cache; rows that the cache lacks are encoded and stored first.

    `feedback`: makes the examples of an objective that samples and ranks responses to prompts; None for any other objective.
    """

    data: DataSection
    objective: Objective
    tokenizer: Tokenizer
    listener: Listener
    feedback: "FeedbackEncoder | None" = None

    def rows(self, source: Source, *, counts_lost: bool = False) -> Stored:
        """Return the rows of a source. `counts_lost`: leave out rows that the model cannot process; `with_lost` finds these for the
        evaluation. Otherwise such rows are an error, or skipped, as data.on_bad_row says.
        """
        if self.feedback is not None:
            with self.listener.progress(f"sampling and judging responses to {source.name}", source.size_bytes, "bytes") as bar:
                return example_set(source, self.feedback, self.data.on_bad_row, bar.advance)
        encoder = self.objective.labelled
        if encoder is None:
            return tokenized(source, self.tokenizer, self.listener, sentences=self.objective.reads_sentences)
        with self.listener.progress(f"tokenizing {source.name}", source.size_bytes, "bytes") as bar:
            return (scored_examples if counts_lost else example_set)(source, encoder, self.data.on_bad_row, bar.advance)

    def validation_sets(self, held_out: Sequence[Source]) -> list[ValidationSet]:
        """Return the validation sets, with `lost` filled if the evaluation counts rows that the model cannot process."""
        judged = self.objective.labelled if self.feedback is None else None
        counts_lost = judged is not None and (judged.evaluates_answers or judged.writer is not None)
        stored = [self.rows(source, counts_lost=counts_lost) for source in held_out]
        for rows in stored:
            if isinstance(rows, TokenStream):
                rows.check_targets()
        sets = [ValidationSet(*named) for named in zip(set_names(self.data, held_out), stored, held_out, strict=True)]
        if judged is None or not counts_lost:
            return sets
        return [with_lost(rows, judged, self.listener, by_loss=not judged.evaluates_answers) for rows in sets]


def tokenized(source: Source, tokenizer: Tokenizer, listener: Listener, *, sentences: bool = False) -> TokenStream:
    """Return the tokens of a source's text, from the cache if they are there. `sentences`: also return where each sentence begins."""
    with listener.progress(f"tokenizing {source.name}", source.size_bytes, "bytes") as bar:
        return token_stream(source, tokenizer, bar.advance, sentences=sentences)


def prepare_data(
    recipe: Recipe,
    device: torch.device,
    listener: Listener,
    stop: StopRequest,
    meter: Meter,
    code: CodePermission | None,
    peers: Peers = ALONE,
    copies: float | None = None,
) -> TrainingData:
    """Open the sources, train or load the tokenizer, and encode the rows. Tokenizer and rows come from the cache, if they are
    in it. If the rows are responses that a judge ranks, they are sampled on `device`. Raises Stopped after a stop request.

    `code`: which reward functions may be run; None: the training is only planned, and runs none. `peers`: the ranks that train together.
    `copies`: how many copies of each companion (such as a teacher) must fit into this machine's memory; None: as many as its ranks hold.
    """
    meter.phase("tokenize")
    listener = StoppingListener(listener, stop, "no step was taken")
    with stop.at_once("no step was taken"):
        require_memory_for_companions(recipe, peers.ranks.copies_on_machine(recipe.parallel.shard) if copies is None else copies)
        start = open_start(recipe.model) if recipe.model.start is not None else None  # before the data, which may take longer to read
        sources, held_out, texts = _open_sources(recipe, listener)
        context, objective = _open_objective(recipe, start, sources, held_out, listener, peers)
        for place, path in recipe.objective.code_files.items():
            read_code(place, path)  # reports a missing file before the rows are tokenized
        rules = _rules(objective, code)
        tokenizer, config = context.tokenizer, context.config
        is_finished = start is not None or recipe.tokenizer.path is not None
        if tokenizer.reads_openings_twice:
            check_openings(() if objective.reads_special_tokens else (*sources, *held_out), recipe.objective.roles, tokenizer)
            check_openings(texts, TEXT, tokenizer)
        for source in sources if is_finished else ():
            if (warning := misfit(source, tokenizer, config.stacks)) is not None:
                listener.warn(warning)
        store = RowStore(recipe.data, objective, tokenizer, listener, _feedback_encoder(recipe, objective, device))
        mixed = [tokenized(source, tokenizer, listener) for source in texts]
        stored = [store.rows(source) for source in sources]
        sets = store.validation_sets(held_out)
    _report(stored, [rows.stored for rows in sets], tokenizer, listener)
    report_rows(mixed, listener)
    if recipe.data.max_lost is not None:
        check_lost(stored, recipe.data.max_lost)
    train = list(zip(stored, [section.weight for section in recipe.data.train], strict=True))
    objective.prepare(train)
    for warning in objective.warnings(stored, tokenizer, context.row_length, is_finished=is_finished):
        listener.warn(warning)
    for note in objective.notes(stored):
        listener.say(note)
    pretraining = list(zip(mixed, [section.weight for section in recipe.data.pretraining or ()], strict=True))
    return TrainingData(tokenizer, [*context.labels], config, objective, train, sets, start, pretraining, rules)


def _open_sources(recipe: Recipe, listener: Listener) -> tuple[list[Source], list[Source], list[Source]]:
    """Open and report the sources of the training rows, of the validation rows, and of the text that is mixed into the steps."""
    roles, seed = recipe.objective.roles, recipe.training.seed
    opened = (training_sources(recipe.data, roles, seed), validation_sources(recipe.data, roles, seed), pretraining_sources(recipe.data))
    for source in chain(*opened):
        listener.say(source.describe())
    return opened


def _open_objective(
    recipe: Recipe, start: Start | None, sources: Sequence[Source], held_out: Sequence[Source], listener: Listener, peers: Peers
) -> tuple[ModelContext, Objective]:
    """Train or load the tokenizer, determine the labels and the model's configuration, and construct the objective with these."""
    base = start.tokenizer if start else _tokenizer(recipe, sources, listener)
    is_finished = start is not None or recipe.tokenizer.path is not None
    tokenizer = objective_tokenizer(recipe.objective, base, is_finished=is_finished)
    # Rows that are held out at random may have a class that the training rows lack. In separate validation data, such a class is an error.
    labelled = [*sources, *held_out] if isinstance(recipe.data.validation, float) else sources
    labels = (recipe.objective.named_labels or find_labels(labelled, recipe.objective.labels_in)) if recipe.objective.has_labels else []
    if start is not None:
        labels = kept_labels(start, recipe, labels)
        config = tuned_config(start, recipe, labels, tokenizer)
    else:
        config = model_config(recipe.model, tokenizer.size, task_head(recipe, len(labels) or 1))
    folder = Path(recipe.tokenizer.path or recipe.model.start or "tokenizer")
    seed, length, later = recipe.training.seed, recipe.data.sequence_length, peers.ranks.share(recipe.parallel.shard)
    context = ModelContext(config, tokenizer, labels, seed, folder, sequence_length=length, defer_blocks=later)
    return context, open_objective(recipe.objective, context)


def _report(stored: Sequence[Stored], validation: Sequence[Stored], tokenizer: Tokenizer, listener: Listener) -> None:
    """Report how many rows were kept, truncated and skipped, and how many tokens there are; warn of held-out rows among training rows."""
    report_rows([*stored, *validation], listener)
    for held_out in validation:
        if shared := overlap([rows.texts for rows in stored], [held_out.texts]):
            listener.warn(f"{held_out.name}: {shared:,} of {len(held_out):,} held-out rows are among those that are trained on")
    cached = ", from the cache" if all(one.cached for one in stored) else ""
    listener.say(f"{sum(map(tokens_of, stored)):,} training tokens, vocabulary {tokenizer.size:,}{cached}")


def report_rows(stored: Sequence[Stored], listener: Listener) -> None:
    """Report how many rows were kept and truncated, and warn of skipped rows; equal messages are shown once."""
    for note in dict.fromkeys(describe_skipped(rows.name, rows.skipped) for rows in stored):
        if note:
            listener.warn(note)
    for note in dict.fromkeys(rows.describe() for rows in stored if isinstance(rows, ExampleSet)):
        listener.say(note)


def set_names(data: DataSection, held_out: Sequence[Source]) -> list[str]:
    """Return the names of the validation sets: those in the recipe, or 1, 2, ... if the sets are held out of the training sources."""
    sections = data.validation if isinstance(data.validation, list) else []
    return data_sections.set_names(sections) or [str(number) for number in range(1, len(held_out) + 1)]


def tokenizer_folder(path: str) -> Path:
    """Return the folder of a tokenizer. `path`: tokenizer.path, which names the folder itself, a run, or a repository of the Hub."""
    folder = Path(os.path.expanduser(path))
    return find_checkpoint(path) if path.startswith("hub:") or (folder / "checkpoints").is_dir() else folder


def _tokenizer(recipe: Recipe, sources: Sequence[Source], listener: Listener) -> Tokenizer:
    section = recipe.tokenizer
    if section.path is not None:
        folder = tokenizer_folder(section.path)
        check_files(folder, TOKENIZER_FILES)
        loaded = load_tokenizer(folder)
        if loaded is None:
            raise ModelError(f"tokenizer.path: {folder} has no tokenizer.json; name a folder that has one")
        return loaded
    sizes = [source.size_bytes for source in sources]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with listener.progress("training the tokenizer", total, "bytes") as bar:
        tokenizer = trained_tokenizer(sources, section, bar.advance)
    if tokenizer.size < section.vocab_size:
        listener.warn(f"the text gives only {tokenizer.size:,} tokenizer entries, not tokenizer.vocab_size {section.vocab_size:,}")
    return tokenizer


def _rules(objective: Objective, code: CodePermission | None) -> "Rules | None":
    """Return the reward rules of an objective that samples responses; None for any other objective, and for a plan, without `code`."""
    if objective.rollouts is None or code is None:
        return None
    from tfkit.alignment.rewards import Rules

    return Rules(objective.rollouts.section.rules, code)


def _feedback_encoder(recipe: Recipe, objective: Objective, device: torch.device) -> "FeedbackEncoder | None":
    """Return the encoder of an objective whose examples are responses that are sampled and ranked; None for any other objective."""
    if objective.feedback is None:
        return None
    from tfkit.alignment.feedback import FeedbackEncoder

    return FeedbackEncoder(objective.feedback, device, pick_precision(recipe.training.precision, device))
