"""The model card of a checkpoint with the energy and emissions of the whole run; the saved README.md has only those up to its saving."""

from dataclasses import replace

from tfkit.carbon.footprint import Reading
from tfkit.errors import ModelError, UsageError
from tfkit.reporting.inherited import ancestry_of
from tfkit.reporting.run_facts import RunFacts, mapping_of, text_of
from tfkit.run.card import with_impact
from tfkit.run.card_impact import CardImpact
from tfkit.run.model_files import MIB, find_file, read_text


def finished_card(run: RunFacts, *, full: bool) -> str:
    """Return README.md of the best or else the newest checkpoint, with the energy and emissions of the whole run until now.

    `full` has no effect, since a card contains no paths or host names. Raises UsageError if the run has no checkpoint, or the
    checkpoint no readable README.md.
    """
    if run.checkpoint is None:
        raise UsageError(f"{run.path}: this run has no checkpoint, and a card describes a model; name a run that has one")
    try:
        path = find_file(run.checkpoint.path, "README.md")
        card = "" if path is None else read_text(path, MIB)
    except ModelError as error:
        raise UsageError(f"{error}; no card can be made from it") from None
    if not card:
        raise UsageError(f"{run.checkpoint.path}: has no README.md to which the cost of the run could be added; save the model again")
    return with_impact(card, _impact(run), run.checkpoint.document.training or "pre-training")


def _impact(run: RunFacts) -> CardImpact:
    ancestry, amounts = ancestry_of(run), run.amounts
    record = mapping_of(run.attempts[-1].machine, "record") if run.attempts else {}
    processor = text_of(run.recorded.processor, "name") or text_of(record, "cpu_model") or "unknown"
    reading = Reading()
    if amounts.energy_kwh is not None and amounts.emissions_g is not None:
        parts = {"cpu": 0.0, "gpu": 0.0, "ram": 0.0} | (run.recorded.totals.energy_kwh_parts or {})
        reading = Reading(
            1000 * amounts.energy_kwh,
            amounts.emissions_g,
            status="degraded" if run.is_lower_bound else "ok",
            place=run.place or "",
            provenance=run.provenance,
            cpu_wh=1000 * parts["cpu"],
            gpu_wh=1000 * parts["gpu"],
            ram_wh=1000 * parts["ram"],
        )
    hardware = ", ".join(filter(None, (text_of(record, "gpu_model"), processor)))
    totals = replace(run.measurement, seconds=amounts.seconds, tokens=run.recorded.totals.tokens)
    return CardImpact(reading, hardware, ancestry.sums if ancestry.ancestors else None, totals)
