"""The command tfkit env, which shows the facts about this machine that a bug report needs and that determine the speed."""

from typing import Any

from tfkit.cli import options
from tfkit.cli.results import align_facts, show
from tfkit.units import format_bytes

EXAMPLES = ("tfkit env", "tfkit env --json")


def env(json: options.Json = False) -> None:
    """Show versions, processor, bf16 support, threads, devices, and the caches with their sizes."""
    from tfkit.engine.tools.environment import describe_environment

    show(describe_environment(), text, as_json=json)


def _forecasts(history: dict[str, Any]) -> str:
    if not history["runs"]:
        return "none yet of a run on this machine"
    errors = {"time": history["median_error_seconds"], "energy": history["median_error_energy_kwh"]}
    shown = ", ".join(f"{name} {value:.0%}" for name, value in errors.items() if value is not None)
    return f"off by {shown} in the median of {history['runs']:,} runs ({history['file']})"


def text(document: dict[str, Any]) -> str:
    """Return the facts in the document of --json as lines of text, each with a name and a value."""
    bf16 = {True: "bf16", False: "no bf16", None: "bf16 unknown"}[document["processor"]["bf16"]]
    cache = document["cache"]
    size = cache["error"] if cache["bytes"] is None else f"{cache['folder']} ({format_bytes(cache['bytes'])})"
    rows = {
        "tfkit": document["tfkit"],
        "python": f"{document['python']} on {document['platform']}",
        **{name: version or "not installed" for name, version in document["versions"].items()},
        "processor": f"{document['processor']['name']}, {bf16}",
        "threads": str(document["threads"]),
        "devices": ", ".join(document["devices"]) or "none: torch is not installed",
        "cache": size,
        "forecasts": _forecasts(document["forecasts"]),
    }
    return align_facts(rows)
