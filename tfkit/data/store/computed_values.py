"""Values that a model computes once for the examples of a set, stored in the cache and added to each example as an array.

Folder of the cache: values.bin (float32, one value for each element of another array); index.json, written last; hashes.json.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfkit.data.store.example_sets import ExampleSet
from tfkit.data.store.folder_cache import cache_folder, indexed_folder, is_built, write_index
from tfkit.data.store.hashes import digest

_VERSION = 1


def with_computed_values(
    stored: ExampleSet,
    name: str,
    beside: str,
    key: str,
    compute: Callable[[], NDArray[np.float32]],
    lacks_any: Callable[[bool], bool] | None = None,
) -> ExampleSet:
    """Return the set with an added array `name`, with one value for each element of the array `beside`, from the cache or computed.

    `key` identifies all that the values depend on in addition to the set; `compute` returns the values of all examples, concatenated.
    `lacks_any`: for ranks that compute together; takes whether this rank's cache lacks the values, and returns whether any rank's does.
    """
    folder = cache_folder() / "computed" / digest(_VERSION, name, key, stored.fingerprint)
    starts = stored.arrays[beside][1]

    computed = compute() if lacks_any is not None and lacks_any(not is_built(folder, _VERSION)) else None

    def write(path: Path) -> None:
        values = compute() if computed is None else computed
        assert len(values) == starts[-1], f"one value for each element of {beside}"
        (path / "values.bin").write_bytes(values.astype("<f4").tobytes())
        write_index(path, _VERSION, {})

    _, files, _ = indexed_folder(folder, _VERSION, write)
    values = files.array("values.bin", "<f4")
    return replace(stored, arrays={**stored.arrays, name: (values, starts)})
