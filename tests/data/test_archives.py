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
from tiny_sources import opened, texts

from tfkit.data.formats.readers import READER_VERSIONS
from tfkit.data.sources.local_files import find_files
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.data.sources.split_files import evaluated_files
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
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
    for name, content in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    archive = tmp_path / f"rows{suffix}"
    archive.write_bytes(zip_of(FILES) if suffix == ".zip" else TARS[suffix](tar_of(FILES)))
    assert texts(archive) == texts(tmp_path / "folder") != []
    assert "3 files in it; 3 other files skipped" in opened(archive).describe()
    shutil.rmtree(tmp_path / "folder")
    assert [path.name for path in find_files(str(tmp_path))] == [archive.name], "a folder of archives is searched for them"
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
    (tmp_path / "a.tar").write_bytes(tar_of({"a.txt": b"text"}))
    (tmp_path / "a.zip").write_bytes(zip_of({"a.txt": b"text"}))
    now = {path.suffix: opened(path).fingerprint() for path in tmp_path.iterdir()}
    monkeypatch.delitem(READER_VERSIONS, "tar")
    before = {path.suffix: opened(path).fingerprint() for path in tmp_path.iterdir()}
    assert {suffix for suffix in now if now[suffix] != before[suffix]} == {".tar"}


def test_a_folder_of_0_1_reads_what_it_read(tmp_path: Path) -> None:
    names = ["a.txt", "b.jsonl.gz", "c.jsonl.xz", "d.tar.gz", "e.tar", "f.zip", "README.md"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_files(str(tmp_path))] == names[:-1]
    assert sorted(path.name for path in find_files(str(tmp_path), recognises=False)) == ["README.md", "a.txt", "b.jsonl.gz", "f.zip"]


def test_a_folder_of_texts_without_suffixes_is_read(tmp_path: Path) -> None:
    for name, content in {
        "sci/49960": b"caf\xc3\xa9 " * 2000,
        "one.story": b"once",
        "README": b"about",
        "image": b"\0\1",
        "latin": b"\xe9",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert [path.name for path in find_files(str(tmp_path))] == ["one.story", "49960"]
    assert "3 other files skipped" in opened(tmp_path).describe()
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}')
    assert [path.name for path in find_files(str(tmp_path))] == ["rows.jsonl"], (
        "where files have the suffix of data, the others are not read"
    )


def test_a_folder_that_datasets_saved_names_the_remedy(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a", "b"]})
    with pyarrow.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="this is an Arrow stream, by its first bytes; write its rows as JSON lines or Parquet"):
        find_files(str(tmp_path))


def test_a_folder_without_data_names_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "rows.rar").write_bytes(b"Rar!\x1a\7\1\0\xff")
    with pytest.raises(DataError, match=r"in this folder, only rows\.rar; .*rows\.rar: this is a rar archive, .*; unpack it, and name"):
        find_files(str(tmp_path))
    with pytest.raises(DataError, match="this is a rar archive, by its first bytes; unpack it"):
        texts(tmp_path / "rows.rar")


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
    texts = {
        f"set/{split}/{label}/{i}.txt": f"{split} {label} {i}".encode()
        for split, count in {"train": 9, "test": 2}.items()
        for label in "ab"
        for i in range(count)
    }
    for name, files in {"tables": tables, "texts": texts}.items():
        path, folder = tmp_path / f"{name}{suffix}", tmp_path / name
        path.write_bytes(zip_of(files) if suffix == ".zip" else gzip.compress(tar_of(files)))
        for member, content in files.items():
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            (folder / member).write_bytes(content)
        found = [
            [
                [dict(row.values) for row in source.rows()]
                for source in (
                    *training_sources(DataSection(train=[SourceSection(path=str(at))], validation=0.5), CLASSES),
                    *validation_sources(DataSection(train=[SourceSection(path=str(at))], validation=0.5), CLASSES),
                    opened(at, roles=CLASSES, files=evaluated_files(str(at))),
                )
            ]
            for at in (path, folder)
        ]
        assert found[0] == found[1]
        assert {row["text"].split()[name == "tables"] for row in found[0][2]} == {"test"}
        assert {row["label"] for row in found[0][2]} == {"a", "b"}
    assert "train.csv to train on" in opened(tmp_path / f"tables{suffix}", "train", 0.5).describe()
    assert len({opened(tmp_path / f"tables{suffix}", files=split).fingerprint() for split in ("train", "test")}) == 2
