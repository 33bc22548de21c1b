"""A data set of the Hugging Face Hub, or a local data set folder, through the library `datasets` (imported only here, when used)."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.data.columns.forms import ClassName
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import FIRST_ROWS, OnBadRow, Part, Row, Skipped, check_rows, fingerprint_of, good_rows, megabytes
from tfkit.data.formats.readers import Rows
from tfkit.errors import DataError
from tfkit.network import fetch, is_offline

_BATCH = 256  # rows decoded at once


@dataclass(frozen=True)
class HubSource:
    """The rows of one split. Its Arrow files are memory-mapped, so rows are read only when needed."""

    name: str
    split: str
    columns: Columns
    part: Part
    dataset: Any  # datasets.Dataset
    on_bad_row: OnBadRow = "error"

    @classmethod
    def load(
        cls, name: str, config: str | None, split: str, revision: str | None, columns: Columns, part: Part, on_bad_row: OnBadRow
    ) -> "HubSource":
        """Load from the hub, or from the `datasets` cache. Raise DataError, with TFKIT_OFFLINE=1 also for anything but a local folder."""
        return cls(name, split, columns, part, load_dataset(name, config, split, revision), on_bad_row)

    @property
    def size_bytes(self) -> int:
        """The bytes of all columns, times the part's fraction."""
        return int((self.dataset.data.nbytes or 0) * self.part.expected_fraction)

    def describe(self) -> str:
        """Describe the split: rows, MB, part."""
        about = f"{self.name}, split {self.split}: {len(self.dataset):,} rows, {megabytes(self.dataset.data.nbytes)}"
        return f"{about}; {self.part.describe()}" if self.part.describe() else about

    def fingerprint(self) -> str:
        """Return a hash of the rows' values, the part and the handling of bad rows; it does not depend on where the data set is."""
        digest = hashlib.blake2b(
            f"hub\0{self.columns.fingerprint()}\0{self.part.fingerprint(self._all_rows())}{fingerprint_of(self.on_bad_row)}".encode(),
            digest_size=16,
        )
        for row in good_rows(self._all_rows(), self.on_bad_row):
            content = json.dumps(row.values, sort_keys=True, default=str).encode()  # a message may have dates among its fields
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.hexdigest()

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part. Places count rows from 0, as the hub's data set viewer does."""
        return self.part.select(good_rows(self._all_rows(), self.on_bad_row, skipped))

    def check(self) -> None:
        """Check the columns and the first rows."""
        check_rows(self._all_rows(), self.on_bad_row, f"{self.name}, split {self.split}", FIRST_ROWS)

    def _all_rows(self) -> Rows:
        where = f"{self.name}, split {self.split}"
        names = self.dataset.column_names
        self.columns.check(names, where)
        wanted = self.dataset.select_columns(self.columns.select_kept(names))
        classes = class_names(wanted.features)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            for number, values in enumerate(zip(*batch.values(), strict=True), start):
                record = with_class_names(dict(zip(batch, values, strict=True)), classes)
                yield self.columns.take(Record(record, f"{where}, row {number}"))


def class_names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return the class names, in order, of each column of `ClassLabel`s, or of lists of them, which a data set stores as numbers."""
    names = {}
    for column, feature in (features or {}).items():
        inner = getattr(feature, "feature", feature)  # the feature of a list's elements
        if type(inner).__name__ == "ClassLabel" and getattr(inner, "names", None):
            names[column] = list(inner.names)
    return names


def with_class_names(values: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the values of a record with each class number as a ClassName, or None if it is no class, as -1 in unlabelled rows."""

    def named(value: Any, names: Sequence[str]) -> Any:
        if isinstance(value, list):
            return [named(item, names) for item in value]
        return (ClassName(names[value], value) if 0 <= value < len(names) else None) if isinstance(value, int) else value

    return {column: named(value, classes[column]) if column in classes else value for column, value in values.items()}


def load_dataset(name: str, config: str | None, split: str, revision: str | None, streamed: bool = False) -> Any:
    """Load a datasets.Dataset, or if `streamed` a datasets.IterableDataset, from the hub or a local folder. Raise DataError."""
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser())
    elif is_offline():
        raise DataError(f"hub data set {name}: TFKIT_OFFLINE is set; unset it, or name a local data set folder")
    return _load(name, config, split, revision, streamed)


def _load(name: str, config: str | None, split: str, revision: str | None, streamed: bool) -> Any:
    import datasets  # type: ignore[import-untyped]
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    datasets.disable_progress_bars()
    what = f"hub data set {name}" + (f", config {config}" if config else "") + f", split {split}"
    try:
        if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(name)
            dataset = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
            return dataset.to_iterable_dataset() if streamed else dataset

        def load() -> Any:
            return datasets.load_dataset(name, config, split=split, revision=revision, streaming=streamed)

        if Path(name).is_dir() or streamed:  # the library itself retries the reads of a stream
            return load()
        return fetch(load, Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset"), _discard)
    except KeyError as error:
        raise DataError(f"{what}: no such split; the folder has {', '.join(map(str, saved))}") from error
    except Exception as error:  # the code that builds a data set may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{what}: cannot be loaded ({reason}); check name, config, split and revision, and the network") from error


def _discard(dataset: Any) -> None:
    """Remove the Arrow files of a download."""
    for file in dataset.cache_files:
        shutil.rmtree(Path(file["filename"]).parent, ignore_errors=True)
