"""Recognition of bytes that are not UTF-8: Western European text in Windows-1252, and files that are not text, by their first bytes."""

import re
from contextlib import suppress
from pathlib import Path

from tfkit.data.columns.rows import BadRow

_ENOUGH_BYTES = 200  # the encoding of a text with fewer bytes is not recognised
_TAR, TAR_BYTES = b"ustar", 512  # the signature at offset 257 of a tar archive's first header, and the size of a header in bytes
_UTF8_LETTER, _LETTER = re.compile(rb"[\xc2\xc3][\x80-\xbf]"), re.compile("[A-Za-z]")
_NOT_WESTERN = re.compile(r"[^\x00-\x7f]{4}|[\x00-\x08\x0e-\x1fÿƒ]|[A-Za-z][^\x00-\x7f\w\s‘’´·–—…\xad][A-Za-z]|[A-Za-z][¹²³][A-Za-z]")
_OTHER_BOMS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# The first bytes of formats that are not read, or are read only from files with their own suffix, grouped by the remedy in the message.
_SIGNATURES = {
    "rename it with the suffix of this format": {
        "gzip": b"\x1f\x8b",
        "bzip2": b"BZh",
        "xz": b"\xfd7zXZ\0",
        "zstd": b"\x28\xb5\x2f\xfd",
        "Parquet": b"PAR1",
    },
    "name it .zip if it is an archive of data files; else save its content as csv or as text": {
        "a zip file or an Office document": b"PK\3\4"
    },
    "unpack it, and name its files": {
        "a 7z archive": b"7z\xbc\xaf\x27\x1c",
        "a rar archive": b"Rar!\x1a\7",
        "lz4": b"\4\x22\x4d\x18",
        "compress": b"\x1f\x9d",
        "a cab archive": b"MSCF\0",
    },
    "save its text as a .txt file": {"PDF": b"%PDF-"},
    "save its content as csv or as text": {"an old Office document": b"\xd0\xcf\x11\xe0"},
    "write its rows as JSON lines or Parquet": {
        "an Arrow file": b"ARROW1",
        "an Arrow stream": b"\xff\xff\xff\xff",
        "an SQLite database": b"SQLite format 3\0",
        "HDF5": b"\x89HDF",
        "a NumPy array": b"\x93NUMPY",
        "Avro": b"Obj\1",
        "a pickle, which is never opened": b"\x80\4\x95",
    },
}


def decode_western(content: bytes) -> str | None:
    """Decode Windows-1252, which includes Latin-1, if the text looks like a Western European language and is not short; else return None.

    In a Western European text, letters beyond ASCII are few and scattered. Not decoded are texts in other alphabets, with
    long runs of such letters; Central European texts, with symbols within words; and damaged UTF-8, with some letters still valid.
    """
    if len(content) < _ENOUGH_BYTES:
        return None
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return None if _UTF8_LETTER.search(content) or _NOT_WESTERN.search(text) or not _LETTER.search(text) else text


def foreign_file(path: Path) -> BadRow | None:
    """Return the `encoding_error` of a file's first bytes; None if there is no error, or if the file cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return encoding_error(file.read(TAR_BYTES), str(path))
    return None


def encoding_error(content: bytes, place: str) -> BadRow | None:
    """Return an error if a file begins with the byte order mark of UTF-16 or UTF-32, or has the signature of a binary format; else None."""
    for mark, name in _OTHER_BOMS.items():
        if content.startswith(mark):
            message = f"{place}: this is {name}, by its first bytes; convert the file (iconv -f {name} -t UTF-8)"
            return BadRow(f"{name}, not UTF-8", message)
    if content[257:].startswith(_TAR):
        return BadRow("a tar archive, not text", f"{place}: this is a tar archive, by its first bytes; name it .tar")
    for remedy, signatures in _SIGNATURES.items():
        for name, signature in signatures.items():
            if content.startswith(signature):
                return BadRow(f"{name}, not text", f"{place}: this is {name}, by its first bytes; {remedy}")
    return None
