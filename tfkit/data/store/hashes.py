"""hashes.json in each cache folder: hashes of the blocks of the folder's files, which show damage even if a file's size is unchanged.

A file of up to 64 MiB is verified when its folder is opened, and if the file is damaged, the folder is built again. Each block of a larger
file is verified when it is first read; a damaged block ends the run with an error, so that no run trains on damaged data.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tfkit.errors import DataError

HASHES = "hashes.json"
BLOCK = 1 << 20  # bytes in a block; a multiple of every item size, so that no item spans two blocks
WHOLE = 1 << 26  # bytes of the largest file that is verified as a whole when its folder is opened, which takes a tenth of a second


class FileHashes(NamedTuple):
    """The size of a file in bytes, and a hash of each block of `BLOCK` bytes."""

    size: int
    blocks: list[str]


def write_hashes(folder: Path) -> None:
    """Write the hashes of every file of a folder into its hashes.json."""
    files = {path.name: _hashes_of(path) for path in sorted(folder.iterdir())}
    (folder / HASHES).write_text(json.dumps({"block_bytes": BLOCK, "files": files}) + "\n")


def find_damage(folder: Path) -> str | None:
    """Return the name of a damaged file; `HASHES` if hashes.json is damaged or a file is missing; None if there is no damage. Of a file
    over `WHOLE` bytes, only the size is checked.
    """
    try:
        for name, expected in read_hashes(folder).items():
            if (folder / name).stat().st_size != expected.size or (expected.size <= WHOLE and _hashes_of(folder / name) != expected):
                return name
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return HASHES
    return None


def read_hashes(folder: Path) -> dict[str, FileHashes]:
    """Return the hashes in hashes.json, by file. Raises OSError, ValueError, KeyError, TypeError or AttributeError if it is damaged."""
    document = json.loads((folder / HASHES).read_bytes())
    if document["block_bytes"] != BLOCK:
        raise ValueError("blocks of another size")
    return {name: FileHashes(*hashes) for name, hashes in document["files"].items()}


class HashedArray:
    """The array of a memory-mapped file; each block is verified when it is first read. Raises DataError if a block is damaged."""

    def __init__(self, path: Path, numbers: NDArray[Any], blocks: list[str]):
        self._path, self._numbers, self._blocks = path, numbers, blocks
        self._unread = np.ones(len(blocks), np.bool_)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the array's items."""
        return self._numbers.dtype

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, key: Any) -> Any:
        """Return items as numpy does. `key`: an index, an array of indices, or a slice without a step; no index is negative."""
        if isinstance(key, slice):
            begin, end, _ = key.indices(len(self))
            first, last = self._block(begin), self._block(max(begin, end - 1))
            self._check(np.flatnonzero(self._unread[first : last + 1]) + first if begin < end else np.empty(0, np.int64))
        else:
            blocks = self._block(np.asarray(key))
            self._check(blocks[self._unread[blocks]])
        return self._numbers[key]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        self._check(np.flatnonzero(self._unread))
        return np.array(self._numbers, dtype) if copy else np.asarray(self._numbers, dtype)

    def _block(self, indices: Any) -> Any:
        return indices * self._numbers.itemsize // BLOCK

    def _check(self, blocks: ArrayLike) -> None:
        for block in np.unique(blocks).tolist():
            content = self._numbers.view(np.uint8)[block * BLOCK : (block + 1) * BLOCK].data
            if _hash(content) != self._blocks[block]:
                with contextlib.suppress(OSError):
                    (self._path.parent / HASHES).unlink()  # without this file, the next start builds the folder again
                raise DataError(
                    f"{self._path}: damaged between byte {block * BLOCK:,} and byte {block * BLOCK + len(content):,}: not what was written "
                    "into the cache; start or resume the run again, which builds this part of the cache again, and check the disk"
                )
            self._unread[block] = False


class HashedFiles:
    """The files of a cache folder that `build_once` provides, as arrays. All files are mapped when the object is created, so their arrays
    stay readable even if the files are deleted.
    """

    def __init__(self, folder: Path):
        self._folder, self._hashes = folder, read_hashes(folder)
        self._mapped = {
            name: np.memmap(folder / name, mode="r") if size else np.empty(0, np.uint8) for name, (size, _) in self._hashes.items()
        }

    def array(self, name: str, dtype: DTypeLike) -> NDArray[Any] | HashedArray:
        """Return a file as a memory-mapped array; each block of a file over `WHOLE` bytes is verified when it is first read."""
        size, blocks = self._hashes[name]
        numbers = self._mapped[name].view(dtype)
        return HashedArray(self._folder / name, numbers, blocks) if size > WHOLE else numbers

    def verified_array(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """Return a file as a memory-mapped array; one over `WHOLE` bytes is verified here. Raises DataError if it is damaged."""
        return np.asarray(self.array(name, dtype))


def _hashes_of(path: Path) -> FileHashes:
    with path.open("rb") as file:
        blocks = [_hash(block) for block in iter(lambda: file.read(BLOCK), b"")]
    return FileHashes(path.stat().st_size, blocks)


def _hash(block: bytes | memoryview) -> str:
    return hashlib.blake2b(block, digest_size=8).hexdigest()


def digest(*about: object) -> str:
    """Return a hash of the values as text, for a fingerprint."""
    return hashlib.blake2b("\0".join(map(str, about)).encode(), digest_size=16).hexdigest()


def texts_digest(texts: NDArray[np.uint64]) -> str:
    """Return a hash of a sequence of texts from the `text_hash` of each."""
    return hashlib.blake2b(np.asarray(texts, "<u8").tobytes(), digest_size=16).hexdigest()


def text_hash(text: str) -> bytes:
    """Return an 8-byte hash of a text without the white space at its ends."""
    return hashlib.blake2b(text.strip().encode(), digest_size=8).digest()
