"""Meters with a scripted probe, at its 100 g/kWh, that write every half second."""

from scripted_probe import G_PER_KWH
from tiny_files import wait_for

from tfkit.carbon import Meter
from tfkit.recipe.schema.carbon_section import CarbonSection

SECTION = CarbonSection(intensity_g_per_kwh=G_PER_KWH, every_seconds=0.5)


def start(folder, probe="Steady", *, until=None, run_id="run", attempt=1, section=SECTION, **changes):
    """Start a meter, and wait until its readings have the status `until`, if there is one."""
    section = section.model_copy(update=changes)
    meter = Meter.start(section, folder=folder, run_id=run_id, attempt=attempt, project="p", probe=f"scripted_probe:{probe}")
    if until is not None:
        wait_for(lambda: meter.reading().status == until)
    return meter
