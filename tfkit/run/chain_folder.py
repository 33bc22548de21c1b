"""The folder of a recipe with stages: a run folder for each, and a run.json of its own, in which they have their order. Torch-free.

runs/<name>/  recipe.yaml  run.json  lock  <stage>/  <stage>/ ...
"""

from contextlib import suppress
from pathlib import Path

from tfkit.run import strict_json

CHAIN = "stages"  # the kind of such a folder, in its run.json


def stage_folders(path: Path) -> dict[str, Path]:
    """Return the run folder of each stage, there yet or not, in order; none for a folder of another kind."""
    with suppress(OSError, ValueError):
        document = strict_json.loads((path / "run.json").read_bytes())
        if isinstance(document, dict) and document.get("kind") == CHAIN and isinstance(document.get("stages"), dict):
            return {name: path / name for name in document["stages"]}
    return {}
