"""The models that a run starts from, as the lineage in each of its checkpoints records them (tfkit/run/lineage.py)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfkit.adapters import base_folder, is_adapter
from tfkit.carbon import resolve_place
from tfkit.engine.companions import recorded_companions
from tfkit.engine.training_data import TrainingData, tokenizer_folder
from tfkit.errors import UsageError
from tfkit.hub import content_hash, run_id_of
from tfkit.recipe.schema.carbon_section import CarbonSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.ancestors import Parent


def parents_of(recipe: Recipe, data: TrainingData) -> list[Parent]:
    """Return the checkpoint that the run starts from, the companions, and the checkpoint of a run whose tokenizer it takes."""
    parents = [parent_of(companion.parent(), companion.folder) for companion in recorded_companions(data.objective)]
    if data.start is not None:
        return [parent_of(data.start.parent(), data.start.described.folder), *parents]
    if recipe.tokenizer.path is None:
        return parents
    folder = tokenizer_folder(recipe.tokenizer.path)
    if (run_id := run_id_of(folder)) is None:  # a tokenizer alone, or one of a published model: no run of tfkit is behind it
        return parents
    entry = {"role": "tokenizer", "path": recipe.tokenizer.path, "run_id": run_id, "sha256": content_hash(folder)}
    return [*parents, parent_of(entry, folder)]


def intensity_of(section: CarbonSection) -> dict[str, Any]:
    """Return the carbon intensity of a run and its source, as in the totals of run.json; empty if its place is no longer known."""
    try:
        place = resolve_place(section)
    except UsageError:  # the settings of CodeCarbon were changed since the run began
        return {}
    return {"g_per_kwh": place.intensity_g_per_kwh, "source": place.dataset, "year": place.year, "kind": place.kind}


def parent_of(entry: Mapping[str, str | None], folder: Path | None) -> Parent:
    """Return the parent with this entry in tfkit.json and this folder; an adapter with the model that it updates."""
    role, path = (str(entry[name]) for name in ("role", "path"))
    return Parent(role, path, folder, entry["run_id"], entry["sha256"], _base(folder) if folder is not None else None)


def _base(folder: Path) -> Parent | None:
    """Return the model that an adapter updates; None for a whole model."""
    if not is_adapter(folder):
        return None
    base = base_folder(folder)
    return Parent("base", str(base), base, run_id_of(base), content_hash(base))
