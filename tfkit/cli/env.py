"""tfkit env: the facts that a bug report needs, and those that decide the speed here."""

from typing import Any

from tfkit import console
from tfkit.cli import options
from tfkit.cli.aligned import facts
from tfkit.units import format_bytes


def env(json: options.Json = False) -> None:
    """Show versions, processor, bf16 support, threads, devices, and the caches with their sizes."""
    from tfkit.engine.commands.environment import describe_environment

    document = describe_environment()
    if json:
        console.json(document)
        return
    for line in lines(document):
        console.result(line)


def _forecasts(found: dict[str, Any]) -> str:
    if not found["runs"]:
        return "none yet of a run on this machine"
    errors = {"time": found["median_error_seconds"], "energy": found["median_error_energy_kwh"]}
    shown = ", ".join(f"{name} {value:.0%}" for name, value in errors.items() if value is not None)
    return f"off by {shown} in the median of {found['runs']:,} runs ({found['file']})"


def lines(document: dict[str, Any]) -> list[str]:
    """Return the document for people: a name and a value a line."""
    bf16 = {True: "bf16", False: "no bf16", None: "bf16 unknown"}[document["processor"]["bf16"]]
    cache = document["cache"]
    size = cache["error"] if cache["bytes"] is None else f"{cache['folder']} ({format_bytes(cache['bytes'])})"
    rows = {
        "tfkit": document["tfkit"],
        "python": f"{document['python']} on {document['platform']}",
        **{name: found or "not installed" for name, found in document["versions"].items()},
        "processor": f"{document['processor']['name']}, {bf16}",
        "threads": str(document["threads"]),
        "devices": ", ".join(document["devices"]) or "none: torch is not installed",
        "cache": size,
        "forecasts": _forecasts(document["forecasts"]),
    }
    return facts(rows).splitlines()
