"""The amounts that a run and those beside it, in a recipe with stages or a sweep, have used: one budget bounds all. Torch-free."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tfkit.carbon import Reading, read_seconds, read_totals
from tfkit.run.chain_folder import member_folders
from tfkit.run.receipt import read_receipt


@dataclass(frozen=True)
class Spent:
    """Grams of CO2e, kilowatt-hours and wall seconds, by the names that budgets have."""

    g: float = 0.0
    kwh: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.g + other.g, self.kwh + other.kwh, self.seconds + other.seconds)

    @classmethod
    def of(cls, reading: Reading, seconds: float) -> "Spent":
        """Take the energy of a reading of the meter, and the seconds of a run."""
        return cls(reading.emissions_g, reading.energy_wh / 1000, seconds)


def spent_in(folder: Path) -> Spent:
    """Return what all attempts of a run have used, of stages or trials of all of them; nothing for a folder that is not there."""
    if members := member_folders(folder):
        return sum((spent_in(member) for member in members.values()), Spent())
    with suppress(OSError, ValueError):
        receipt = read_receipt(folder / "run.json")
        metered = read_seconds(folder, receipt["run_id"])
        attempts = enumerate(receipt["attempts"], 1)
        seconds = sum(metered.get(number, attempt.get("seconds") or 0.0) for number, attempt in attempts)
        return Spent.of(read_totals(folder, receipt["run_id"]), seconds)
    return Spent()


def spent_beside(folder: Path) -> Spent:
    """Return what the other runs have used that are stages of the same recipe, or trials of the same sweep, as this one."""
    folder = folder.resolve()
    members = {member.resolve() for member in member_folders(folder.parent).values()}
    if folder not in members:
        return Spent()
    return sum((spent_in(member) for member in members - {folder}), spent_beside(folder.parent))


def is_measured(folder: Path) -> bool:
    """Whether the energy of all attempts of a run was measured whole."""
    with suppress(OSError):
        return read_totals(folder).status == "ok"
    return False
