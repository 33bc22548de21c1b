"""The section for energy and emissions: what is measured, and the place where the electricity is used. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import Effectiveness, Intensity, Seconds

Limit = Annotated[float, Field(gt=0, le=1e12)]
Name = Annotated[str, Field(min_length=1, max_length=500)]


class CarbonSection(Data):
    """Energy and CO2e: the place, and the interval of the readings."""

    enabled: bool = Field(True, description="Measure energy and CO2 with CodeCarbon.")
    country: str | None = Field(None, pattern="^[A-Z]{3}$", description="Where it runs, as ISO 3166 alpha-3 (FRA, DEU, USA).")
    intensity_g_per_kwh: Intensity | None = Field(None, description="Grams of CO2e per kWh; overrides the country's mean.")
    intensity_file: str | None = Field(
        None, min_length=1, description="A csv file `timestamp_utc,g_per_kwh` with intensities over time, instead of a single one."
    )
    pue: Effectiveness = Field(1.0, description="Power usage effectiveness of the data centre; multiplies the energy.")
    every_seconds: Seconds = Field(5.0, description="Seconds between readings; each is a line of the ledger.")
    baseline_seconds: float = Field(
        0.0, ge=0, le=3600, description="Seconds for which the idle machine is measured before the work starts; 0: not at all."
    )
    embodied_g_per_device_hour: Limit | None = Field(
        None, description="Grams of CO2e of making a device, for each hour of its use: used only by the report format sci."
    )
    embodied_source: Name | None = Field(None, description="The source of embodied_g_per_device_hour, which names it in reports.")
    budget_g: Limit | None = Field(None, description="Grams of CO2e after which the run stops (7), over all attempts and stages.")
    budget_kwh: Limit | None = Field(None, description="Kilowatt-hours after which the run stops (7), over all attempts and stages.")
    budget_seconds: Limit | None = Field(None, description="Wall seconds after which the run stops (7), over all attempts and stages.")
    on_meter_failure: Literal["warn", "stop"] = Field(
        "warn", description="If the meter fails, a run with a budget of grams or energy continues with a warning, or stops (exit code 7)."
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits of the budget by their units, `g`, `kwh` and `seconds`; empty if there is no budget."""
        limits = {"g": self.budget_g, "kwh": self.budget_kwh, "seconds": self.budget_seconds}
        return {name: limit for name, limit in limits.items() if limit is not None}
