"""The amounts used by a run and its siblings, the stages of one recipe or the trials of one sweep: one budget limits all. Torch-free."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tfkit.carbon import Reading, read_seconds, read_totals
from tfkit.run.chain_folder import member_folders
from tfkit.run.receipt import read_receipt


@dataclass(frozen=True)
class Spent:
    """Amounts used: grams of CO2e, kilowatt-hours and wall seconds."""

    g: float = 0.0
    kwh: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.g + other.g, self.kwh + other.kwh, self.seconds + other.seconds)

    @classmethod
    def of(cls, reading: Reading, seconds: float) -> "Spent":
        """Combine the energy of a meter's reading with the seconds of a run."""
        return cls(reading.emissions_g, reading.energy_wh / 1000, seconds)


def spent_in(folder: Path) -> Spent:
    """Return what all attempts of a run, or all stages or trials in a folder, have used; zeros for a folder that does not exist."""
    if members := member_folders(folder):
        return sum((spent_in(member) for member in members.values()), Spent())
    with suppress(OSError, ValueError):
        receipt = read_receipt(folder / "run.json")
        metered = read_seconds(folder, receipt["run_id"])
        attempts = enumerate(receipt["attempts"], 1)
        seconds = sum(metered.get(number, attempt.get("seconds") or 0.0) for number, attempt in attempts)
        return Spent.of(read_totals(folder, receipt["run_id"]), seconds)
    return Spent()


def spent_by_siblings(folder: Path) -> Spent:
    """Return what the other stages of the same recipe, or the other trials of the same sweep, have used."""
    folder = folder.resolve()
    members = {member.resolve() for member in member_folders(folder.parent).values()}
    if folder not in members:
        return Spent()
    return sum((spent_in(member) for member in members - {folder}), spent_by_siblings(folder.parent))


def is_measured(folder: Path) -> bool:
    """Whether the energy of all attempts of a run was measured completely."""
    with suppress(OSError):
        return read_totals(folder).status == "ok"
    return False
