"""The section of a recipe for energy and emissions: what is measured, and the place where the electricity is used."""

from typing import Annotated, Literal

from pydantic import Field

from tfkit.model.config import Data
from tfkit.recipe.schema.bounds import Effectiveness, Intensity, Seconds

Limit = Annotated[float, Field(gt=0, le=1e12)]
Name = Annotated[str, Field(min_length=1, max_length=500)]


class CarbonSection(Data):
    """The measurement of energy and CO2e: the place, the interval of the readings, and the budgets."""

    enabled: bool = Field(True, description="Measure energy and CO2 with CodeCarbon.")
    country: str | None = Field(None, pattern="^[A-Z]{3}$", description="The country of the machine, as ISO 3166 alpha-3 (FRA, DEU, USA).")
    intensity_g_per_kwh: Intensity | None = Field(None, description="Grams of CO2e per kWh; overrides the country's mean.")
    intensity_file: str | None = Field(
        None, min_length=1, description="A csv file `timestamp_utc,g_per_kwh` with intensities over time, instead of a single intensity."
    )
    pue: Effectiveness = Field(1.0, description="Power usage effectiveness of the data centre; multiplies the energy.")
    every_seconds: Seconds = Field(5.0, description="Seconds between readings of the meter; each reading is a line of the ledger.")
    baseline_seconds: float = Field(
        0.0, ge=0, le=3600, description="Seconds for which the idle machine is measured before the work starts; 0: not at all."
    )
    embodied_g_per_device_hour: Limit | None = Field(
        None, description="Grams of CO2e from making a device, per hour of its use; only the report format sci uses this."
    )
    embodied_source: Name | None = Field(None, description="The source of embodied_g_per_device_hour, which reports cite.")
    budget_g: Limit | None = Field(None, description="Grams of CO2e of all attempts and stages, after which the run stops (exit code 7).")
    budget_kwh: Limit | None = Field(None, description="kWh of all attempts and stages, after which the run stops (exit code 7).")
    budget_seconds: Limit | None = Field(
        None, description="Wall seconds of all attempts and stages, after which the run stops (exit code 7)."
    )
    on_meter_failure: Literal["warn", "stop"] = Field(
        "warn", description="If the meter fails, a run with a budget of grams or energy continues with a warning, or stops (exit code 7)."
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits of the budget by unit (`g`, `kwh`, `seconds`); empty if there is no budget."""
        limits = {"g": self.budget_g, "kwh": self.budget_kwh, "seconds": self.budget_seconds}
        return {name: limit for name, limit in limits.items() if limit is not None}
