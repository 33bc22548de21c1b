"""A manifest shows every change of the listed files and of itself, and paths out of the folder are refused."""

import json
import os
from pathlib import Path

import pytest

from tfkit.errors import ModelError
from tfkit.run.manifest import NAME, is_complete, read_manifest, verify, write_manifest


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-000001"
    (folder / "training_state").mkdir(parents=True)
    files = {"config.json": '{"model_type": "gpt2"}', "empty": "", "README.md": "a card", "training_state/state.json": '{"step": 1}'}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "model.safetensors").write_bytes(os.urandom(999))
    write_manifest(folder)
    return folder


def test_it_covers_every_file_but_the_card_which_may_change_and_files_that_come_later(checkpoint: Path) -> None:
    assert read_manifest(checkpoint).keys() == {"config.json", "model.safetensors", "empty", "training_state/state.json"}
    assert verify(checkpoint) == []
    (checkpoint / "README.md").write_text("another card")
    (checkpoint / "notes.txt").write_text("mine")
    assert verify(checkpoint) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training_state/state.json"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "flipped", "folder", "link"])
def test_damage_is_found_and_named(checkpoint: Path, name: str, damage: str) -> None:
    file = checkpoint / name
    data = file.read_bytes()
    match damage:
        case "truncated":
            os.truncate(file, len(data) - 1)
        case "emptied":
            os.truncate(file, 0)
        case "flipped":
            file.write_bytes(bytes([data[0] ^ 16]) + data[1:])
        case _:
            file.unlink()
            if damage == "folder":
                file.mkdir()
            if damage == "link":
                (checkpoint.parent / "elsewhere").write_bytes(data)
                file.symlink_to(checkpoint.parent / "elsewhere")
    (problem,) = verify(checkpoint)
    assert problem.startswith(f"{file}: ")
    assert is_complete(checkpoint) == (damage == "flipped")


def test_every_flipped_bit_of_the_manifest_is_found(checkpoint: Path) -> None:
    for file in ("empty", "model.safetensors"):
        (checkpoint / file).unlink()
    write_manifest(checkpoint)
    manifest = checkpoint / NAME
    good = manifest.read_bytes()
    meaning = json.loads(good)
    for place in range(len(good)):
        for bit in range(8):
            with manifest.open("r+b") as file:  # in place: writing the file again would sync it each time
                file.write(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            if not verify(checkpoint):
                assert json.loads(manifest.read_bytes()) == meaning, "white space for white space"


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/../../x", "./config.json", "a//b", "a\\b", "C:x", "", "."])
def test_an_entry_that_leaves_the_folder_is_refused(checkpoint: Path, name: str) -> None:
    document = json.loads((checkpoint / NAME).read_text())
    document["files"][name] = document["files"]["config.json"]
    (checkpoint / NAME).write_text(json.dumps(document))
    with pytest.raises(ModelError, match="refused as unsafe"):
        read_manifest(checkpoint)


def test_a_link_is_neither_followed_nor_written_into_a_manifest(checkpoint: Path) -> None:
    (checkpoint / "training_state").rename(checkpoint.parent / "elsewhere")
    (checkpoint / "training_state").symlink_to(checkpoint.parent / "elsewhere")
    assert "a link" in verify(checkpoint)[0]
    with pytest.raises(ModelError, match="no links"):
        write_manifest(checkpoint)


NO_MANIFESTS = (
    *("", "{", "[]", "null", "[" * 100_000, "\xff", '{"files": {}}', '{"schema_version": 2, "files": {}}'),
    *('{"schema_version": 1, "files": []}', '{"schema_version": 1, "files": {}, "note": 1}'),
    '{"schema_version": 1, "files": {"a": {"size": NaN, "sha256": ""}}}',
    '{"schema_version": 1, "files": {"a": {"size": true, "sha256": "%s"}}}' % ("0" * 64),
)


@pytest.mark.parametrize("text", NO_MANIFESTS, ids=lambda text: text[:70])
def test_any_other_form_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / NAME).write_bytes(text.encode("latin-1"))
    assert len(verify(checkpoint)) == 1
    assert not is_complete(checkpoint)


@pytest.mark.parametrize("kind", ["pipe", "folder", "huge"])
def test_what_is_no_small_file_is_not_read(checkpoint: Path, kind: str) -> None:
    """Reading a pipe would never end, and reading a huge file would take all memory."""
    (checkpoint / NAME).unlink()
    match kind:
        case "pipe":
            os.mkfifo(checkpoint / NAME)
        case "folder":
            (checkpoint / NAME).mkdir()
        case "huge":
            (checkpoint / NAME).touch()
            os.truncate(checkpoint / NAME, 1 << 40)
    with pytest.raises(ModelError, match=r"manifest\.json: (not a file|larger than)"):
        read_manifest(checkpoint)
