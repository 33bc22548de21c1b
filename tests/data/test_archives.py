"""Compressed files and archives are read as the plain files and folders that they hold."""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sources import both_sides, opened, texts, write_files

from tfkit.data.formats.readers import READER_VERSIONS
from tfkit.data.sources.local_files import find_files
from tfkit.data.sources.split_files import evaluated_files
from tfkit.errors import DataError
from tfkit.recipe.schema.label_sections import ClassificationSection

CLASSES = ClassificationSection.roles

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    ".zst": lambda content: pyarrow.Codec("zstd").compress(content, asbytes=True),
}
TARS = {".tar": bytes, ".TGZ": gzip.compress, ".tbz2": bz2.compress, ".txz": lzma.compress, ".tzst": COMPRESSIONS[".zst"]}
TARS |= {f".tar{suffix}": compress for suffix, compress in COMPRESSIONS.items()}
FILES = {
    "b/part-2.jsonl": b'{"text": "a row of JSON"}\n',
    "a.csv": b"text,label\nof a table,1\nagain,0\n",
    "c.txt.gz": gzip.compress(b"compressed twice"),
    "README.md": b"not data",
    "picture.png": b"\x89PNG",
    ".hidden.txt": b"not data either",
}


def tar_of(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".zip", *TARS])
def test_an_archive_is_read_as_the_folder_that_it_holds(tmp_path: Path, suffix: str) -> None:
    folder, archive = write_files(tmp_path / "folder", FILES), tmp_path / f"rows{suffix}"
    archive.write_bytes(zip_of(FILES) if suffix == ".zip" else TARS[suffix](tar_of(FILES)))
    assert texts(archive) == texts(folder) != []
    assert "3 files in it; 3 other files skipped" in opened(archive).describe()
    shutil.rmtree(folder)
    assert [*find_files(str(tmp_path))] == [archive], "a folder of archives is searched for them"
    assert texts(tmp_path) == texts(tmp_path / "*") == texts(archive)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@settings(max_examples=20, deadline=None)
@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30), min_size=1, max_size=9))
def test_a_compressed_file_is_read_as_the_file_itself(tmp_path_factory: pytest.TempPathFactory, suffix: str, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("files")
    content = ("\n".join(["x", *lines]) + "\n").encode()
    (folder / "a.lst").write_bytes(content)
    (folder / f"a.lst{suffix}").write_bytes(COMPRESSIONS[suffix](content))
    assert texts(folder / f"a.lst{suffix}") == texts(folder / "a.lst")


def test_links_devices_and_older_files_of_one_name_are_not_read(tmp_path: Path) -> None:
    infos = [tarfile.TarInfo(f"{number}.txt") for number in range(4)]
    for info, kind in zip(infos, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE), strict=True):
        info.type, info.linkname = kind, "/etc/passwd"
    older, newer = tar_of({"a.txt": b"older"}), tar_of({"a.txt": b"newer", "../b.txt": b"outside", "/c.txt": b"absolute"}, *infos)
    (tmp_path / "a.tar").write_bytes(older[: 2 * tarfile.BLOCKSIZE] + newer)
    assert texts(tmp_path / "a.tar") == ["absolute", "newer"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"], "nothing is written"


def test_a_tar_archive_that_was_a_text_has_another_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before it was an archive cached its bytes as a text, under the hash of these bytes."""
    write_files(tmp_path, {"a.tar": tar_of({"a.txt": b"text"}), "a.zip": zip_of({"a.txt": b"text"})})
    now = {path.suffix: opened(path).fingerprint() for path in tmp_path.iterdir()}
    monkeypatch.delitem(READER_VERSIONS, "tar")
    assert {path.suffix for path in tmp_path.iterdir() if opened(path).fingerprint() != now[path.suffix]} == {".tar"}


def test_a_folder_of_0_1_reads_what_it_read(tmp_path: Path) -> None:
    names = ["a.txt", "b.jsonl.gz", "c.jsonl.xz", "d.tar.gz", "e.tar", "f.zip"]
    write_files(tmp_path, dict.fromkeys([*names, "README.md"], b"x"))
    assert [path.name for path in find_files(str(tmp_path))] == names
    assert sorted(path.name for path in find_files(str(tmp_path), recognises=False)) == ["README.md", "a.txt", "b.jsonl.gz", "f.zip"]


def test_a_folder_of_texts_without_suffixes_is_read(tmp_path: Path) -> None:
    files = {"sci/49960": b"caf\xc3\xa9 " * 2000, "one.story": b"once", "README": b"about", "image": b"\0\1", "latin": b"\xe9"}
    write_files(tmp_path, files)
    assert [path.name for path in find_files(str(tmp_path))] == ["one.story", "49960"]
    assert "3 other files skipped" in opened(tmp_path).describe()
    write_files(tmp_path, {"rows.jsonl": '{"text": "a"}'})
    assert [path.name for path in find_files(str(tmp_path))] == ["rows.jsonl"], "beside data by their suffix, the others are not read"


def test_a_folder_without_data_names_what_it_holds(tmp_path: Path) -> None:
    rar = write_files(tmp_path / "a", {"rows.rar": b"Rar!\x1a\7\1\0\xff"})
    with pytest.raises(DataError, match=r"in this folder, only rows\.rar; .*rows\.rar: this is a rar archive, .*; unpack it, and name"):
        find_files(str(rar))
    with pytest.raises(DataError, match="this is a rar archive, by its first bytes; unpack it"):
        texts(rar / "rows.rar")
    saved, table = write_files(tmp_path / "b", {"state.json": "{}"}), pyarrow.table({"text": ["a", "b"]})  # as datasets saves one
    with pyarrow.ipc.new_stream(saved / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(DataError, match="this is an Arrow stream, by its first bytes; write its rows as JSON lines or Parquet"):
        find_files(str(saved))


@pytest.mark.parametrize("pack", [zip_of, tar_of, lambda files: gzip.compress(tar_of(files))])
def test_an_archive_without_its_suffix_is_named_and_not_read_as_text(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    """Also a tar archive of texts, which is UTF-8. In a folder or in another archive it is among the files that are skipped."""
    (tmp_path / "rows.dat").write_bytes(packed := pack({"a.txt": b"a text"}))
    with pytest.raises(DataError, match=r"rows\.dat: this is (a zip file|a tar archive|gzip).*, by its first bytes; (re)?name it"):
        texts(tmp_path / "rows.dat")
    (tmp_path / "outer.zip").write_bytes(zip_of({"b.txt": b"b", "rows.dat": packed}))
    assert "1 other file skipped: rows.dat" in opened(tmp_path / "outer.zip").describe()
    assert "2 other files skipped: rows.dat, rows.dat" in opened(tmp_path).describe()
    (tmp_path / "outer.zip").write_bytes(zip_of({"rows.dat": packed}))
    with pytest.raises(DataError, match=r"in this archive, only rows\.dat; unpack it"):
        opened(tmp_path / "outer.zip")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_splits_and_classes_of_an_archive_are_those_of_its_folder(tmp_path: Path, suffix: str) -> None:
    """A table for each split, and a folder of texts for each class of each split, in the test split with few texts."""
    tables = {f"set/{split}.csv": f"text,label\nof {split},a\nof {split} too,b\n".encode() for split in ("train", "dev", "test")}
    of_splits = [(split, label, i) for split, count in {"train": 9, "test": 2}.items() for label in "ab" for i in range(count)]
    texts = {f"set/{split}/{label}/{i}.txt": f"{split} {label} {i}".encode() for split, label, i in of_splits}
    for name, files in {"tables": tables, "texts": texts}.items():
        archive, folder = tmp_path / f"{name}{suffix}", write_files(tmp_path / name, files)
        archive.write_bytes(zip_of(files) if suffix == ".zip" else gzip.compress(tar_of(files)))
        of_archive, of_folder = (
            [
                [dict(row.values) for row in source.rows()]
                for source in (*both_sides(path, CLASSES), opened(path, roles=CLASSES, files=evaluated_files(str(path))))
            ]
            for path in (archive, folder)
        )
        assert of_archive == of_folder
        assert {row["text"].split()[name == "tables"] for row in of_archive[2]} == {"test"}
        assert {row["label"] for row in of_archive[2]} == {"a", "b"}
    assert "train.csv to train on" in opened(tmp_path / f"tables{suffix}", "train", 0.5).describe()
    assert len({opened(tmp_path / f"tables{suffix}", files=split).fingerprint() for split in ("train", "test")}) == 2
