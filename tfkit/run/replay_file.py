"""The replay file of a step that ended a run with exit code 6, because the training was unhealthy. `tfkit replay` repeats the step from it.

    replay/step-000123.json: {"schema_version": 1, "step": 123, "loss": null, "grad_norm": null, "nonfinite": {"loss": "nan", ...},
        "micro_batches": [{"rows": [numbers], "seed": 8123, "sha256": of the tensors}], "weights_sha256": ..., "threads": 2, ...}

The data and the dropout masks of the step are made again from the recipe, and its weights by training again from an earlier checkpoint or
the start. The hashes in the file show whether the repeated step has the same data and weights.
"""

from pathlib import Path
from typing import Any

from tfkit.durable import write_atomically
from tfkit.errors import ModelError
from tfkit.run import strict_json

FOLDER = "replay"
SCHEMA_VERSION = 1


def write_replay(run_folder: Path, document: dict[str, Any]) -> None:
    """Write the replay file of the step in `document`. Raises OSError."""
    folder = run_folder / FOLDER
    folder.mkdir(exist_ok=True)
    write_atomically(
        folder / f"step-{document['step']:06d}.json", strict_json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1) + "\n"
    )


def read_replay(run_folder: Path, step: int | None = None) -> dict[str, Any]:
    """Return the content of the replay file of `step`, by default the highest step. Raises ModelError if it is missing or invalid."""
    names = "step-*.json" if step is None else f"step-{step:06d}.json"
    paths = sorted((run_folder / FOLDER).glob(names), key=lambda path: (len(path.name), path.name))  # 999999 before 1000000
    if not paths:
        which = f"of step {step} " if step is not None else ""
        raise ModelError(f"{run_folder}: holds no replay file {which}(in {FOLDER}/); a run that ends with exit code 6 leaves one")
    path = paths[-1]
    try:
        document = strict_json.loads(path.read_bytes())
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {document['schema_version']!r}")
        int(document["step"]), str(document["weights_sha256"]), [str(batch["sha256"]) for batch in document["micro_batches"]]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"{path}: not a replay file of this tfkit ({error!r})") from error
    return dict(document)
