"""A data set of the Hugging Face Hub, or a data set folder on this machine, through `datasets` (imported only here, when used)."""

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

_BATCH = 256


@dataclass(frozen=True)
class HubSource:
    """The rows of one split. Its Arrow files are memory-mapped, so rows are read as they are needed."""

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
        """Load from the hub, or from the `datasets` cache. Raise DataError; with TFKIT_OFFLINE=1 also for everything but a local folder."""
        return cls(name, split, columns, part, load_dataset(name, config, split, revision), on_bad_row)

    @property
    def size_bytes(self) -> int:
        """Bytes of all columns, times the part's fraction."""
        return int((self.dataset.data.nbytes or 0) * self.part.expected_fraction)

    def describe(self) -> str:
        """Return rows, MB and part of the split."""
        about = f"{self.name}, split {self.split}: {len(self.dataset):,} rows, {megabytes(self.dataset.data.nbytes)}"
        return f"{about}; {self.part.describe()}" if self.part.describe() else about

    def fingerprint(self) -> str:
        """Return a hash of the rows' text, the part and the treatment of bad rows: the same wherever the data set is."""
        digest = hashlib.blake2b(
            f"hub\0{self.columns.fingerprint()}\0{self.part.fingerprint(self._all_rows())}{fingerprint_of(self.on_bad_row)}".encode(),
            digest_size=16,
        )
        for row in good_rows(self._all_rows(), self.on_bad_row):
            content = json.dumps(row.values, sort_keys=True, default=str).encode()  # a message may hold dates beside its text
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.hexdigest()

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part. Places count rows from 0, as the data set viewer does."""
        return self.part.select(good_rows(self._all_rows(), self.on_bad_row, skipped))

    def check(self) -> None:
        """Check the columns and the first rows."""
        check_rows(self._all_rows(), self.on_bad_row, f"{self.name}, split {self.split}", FIRST_ROWS)

    def _all_rows(self) -> Rows:
        where = f"{self.name}, split {self.split}"
        names = self.dataset.column_names
        self.columns.check(names, where)
        wanted = self.dataset.select_columns(self.columns.kept(names))
        classes = class_names(wanted.features)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            for number, values in enumerate(zip(*batch.values(), strict=True), start):
                record = by_name(dict(zip(batch, values, strict=True)), classes)
                yield self.columns.take(Record(record, f"{where}, row {number}"))


def class_names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return the names, in order, of each column of classes, or of lists of them, that a data set stores as numbers."""
    found = {}
    for column, feature in (features or {}).items():
        inner = getattr(feature, "feature", feature)  # of a list
        if type(inner).__name__ == "ClassLabel" and getattr(inner, "names", None):
            found[column] = list(inner.names)
    return found


def by_name(values: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the values of a record with each class as a ClassName; None for a number that is no class, as -1 of unlabelled rows."""

    def named(value: Any, names: Sequence[str]) -> Any:
        if isinstance(value, list):
            return [named(part, names) for part in value]
        return (ClassName(names[value], value) if 0 <= value < len(names) else None) if isinstance(value, int) else value

    return {column: named(value, classes[column]) if column in classes else value for column, value in values.items()}


def load_dataset(name: str, config: str | None, split: str, revision: str | None, streamed: bool = False) -> Any:
    """Load a datasets.Dataset of the hub, or of a local folder; `streamed`: a datasets.IterableDataset. Raise DataError."""
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
            found = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
            return found.to_iterable_dataset() if streamed else found

        def load() -> Any:
            return datasets.load_dataset(name, config, split=split, revision=revision, streaming=streamed)

        if Path(name).is_dir() or streamed:  # a stream is read later, with the library's own retries
            return load()
        return fetch(load, Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset"), _discard)
    except KeyError as error:
        raise DataError(f"{what}: no such split; the folder has {', '.join(map(str, saved))}") from error
    except Exception as error:  # the builders of data sets raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{what}: cannot be loaded ({reason}); check name, config, split and revision, and the network") from error


def _discard(dataset: Any) -> None:
    """Remove the Arrow files of a download."""
    for file in dataset.cache_files:
        shutil.rmtree(Path(file["filename"]).parent, ignore_errors=True)
