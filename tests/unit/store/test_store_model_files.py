"""Complete model files: indexed by digest, checked, repaired and removed."""

import fcntl
import os
from pathlib import Path

import pytest

from deltaic.store.errors import ChunkDamaged, ChunkNotFound, DiskFailed, RevisionNotHeld, StagingBusy
from deltaic.store.model_files import ModelFiles
from deltaic.store.places import RevisionPaths
from deltaic.store.revision_lock import RevisionLock


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_an_empty_folder_is_made_and_holds_nothing(tmp_path):
    files = ModelFiles(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert files.revisions() == []
    assert files.path("0" * 64) is None
    assert files.manifest("0" * 64) is None


def test_what_was_committed_is_there_at_once_and_after_a_restart(files, model):
    path = model.commit_into(files)
    for each in (files, ModelFiles(files.folder)):
        assert each.revisions() == [model.manifest]
        assert each.path(model.hex) == path
        assert each.manifest(model.hex) == model.manifest


def test_a_growing_file_is_no_revision(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        assert files.revisions() == []
        assert files.unfinished() == [model.hex]
    assert ModelFiles(files.folder).revisions() == []


async def test_chunks_of_a_growing_file_are_not_served(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
    assert not await files.has(model.largest.digest)


async def test_shared_chunks_are_located_in_every_file_and_outlive_the_removal_of_one(files, make_model):
    first, second = make_model(), make_model(general_name="Other")
    paths = {first.commit_into(files), second.commit_into(files)}
    shared = first.largest.digest
    assert {place.path for place in files.locate(shared)} == paths
    files.remove(first.hex)
    assert [place.path for place in files.locate(shared)] == [files.path(second.hex)]
    assert await files.read(shared) == first.bytes_of(shared)


async def test_a_chunk_damaged_in_one_file_is_read_from_another(files, make_model):
    first, second = make_model(), make_model(general_name="Other")
    path = first.commit_into(files)
    second.commit_into(files)
    _flip(path, first.largest.offset)
    assert await files.read(first.largest.digest) == first.bytes_of(first.largest.digest)


async def test_the_path_of_damage_says_where_and_what_to_do(files, model):
    path = model.commit_into(files)
    _flip(path, model.largest.offset + 3)
    with pytest.raises(ChunkDamaged, match=rf"byte {model.largest.offset:,} of .*{model.hex}.gguf.*fetch the revision"):
        await files.read(model.largest.digest)


async def test_a_file_deleted_behind_our_back_is_not_found(files, model):
    model.commit_into(files).unlink()
    with pytest.raises(ChunkNotFound):
        await files.read(model.largest.digest)


def test_a_whole_file_has_no_damage(files, model):
    model.commit_into(files)
    assert files.damaged(model.hex) == []


@pytest.mark.parametrize("place", ["first", "last", "middle"])
def test_damage_is_exactly_the_chunk_that_changed(files, model, place):
    path = model.commit_into(files)
    chunk = model.largest
    _flip(path, {"first": chunk.offset, "last": chunk.end - 1, "middle": chunk.offset + 999}[place])
    assert files.damaged(model.hex) == [chunk]


def test_a_file_cut_short_is_damaged_from_the_cut_on(files, model):
    path = model.commit_into(files)
    os.truncate(path, model.largest.end - 1)
    assert files.damaged(model.hex) == [chunk for chunk in model.manifest.chunks if chunk.end >= model.largest.end]


def test_a_reopened_file_misses_only_its_bad_chunks_and_becomes_whole_again(files, model):
    path = model.commit_into(files)
    _flip(path, model.largest.offset)
    assert files.reopen(model.hex) == model.manifest
    assert files.path(model.hex) is None
    with files.stage(model.manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [model.largest.digest]
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content
    assert files.damaged(model.hex) == []


def test_a_reopened_revision_is_neither_held_nor_served_until_it_is_whole(files, model):
    model.commit_into(files)
    files.reopen(model.hex)
    assert files.revisions() == []
    assert files.locate(model.largest.digest) == []
    assert ModelFiles(files.folder).unfinished() == [model.hex]


def test_what_is_not_held_cannot_be_checked_or_reopened(files, model):
    for act in (files.damaged, files.reopen):
        with pytest.raises(RevisionNotHeld, match="fetch the revision"):
            act(model.hex)


def test_removing_leaves_nothing_and_is_idempotent(files, model):
    model.commit_into(files)
    files.remove(model.hex)
    files.remove(model.hex)
    assert list(files.folder.iterdir()) == []
    assert files.revisions() == []


def test_removing_takes_a_growing_file_too(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
    files.remove(model.hex)
    assert list(files.folder.iterdir()) == []


def test_what_is_being_staged_is_not_removed(files, model):
    with files.stage(model.manifest):
        with pytest.raises(StagingBusy):
            files.remove(model.hex)
        assert files.unfinished() == [model.hex]


def test_a_mapped_file_survives_its_removal_for_the_one_who_mapped_it(files, model):
    with model.commit_into(files).open("rb") as opened:
        files.remove(model.hex)
        assert opened.read() == model.content


def test_refresh_sees_what_another_process_did(files, model):
    other = ModelFiles(files.folder)
    model.commit_into(other)
    files.refresh()
    assert files.revisions() == [model.manifest]
    other.remove(model.hex)
    files.refresh()
    assert files.revisions() == []


def test_opening_the_folder_does_not_disturb_a_staging(files, model):
    with files.stage(model.manifest) as staging:
        ModelFiles(files.folder)
        model.write_missing(staging)
        ModelFiles(files.folder)
        assert staging.commit().read_bytes() == model.content


def test_opening_a_settled_folder_takes_no_lock(files, make_model, monkeypatch):
    complete, growing = make_model(), make_model(seed=7)
    complete.commit_into(files)
    files.stage(growing.manifest).close()

    def refuse(*_: object) -> None:
        raise AssertionError("locked")

    monkeypatch.setattr(RevisionLock, "__init__", refuse)
    assert ModelFiles(files.folder).revisions() == [complete.manifest]


def test_foreign_files_are_left_alone(files, model):
    model.commit_into(files)
    foreign = ["notes.txt", "model.gguf", f"{'g' * 64}.gguf", f"{model.hex}.gguf.bak", f"{model.hex.upper()}.part"]
    for name in foreign:
        (files.folder / name).write_bytes(b"mine")
    ModelFiles(files.folder)
    assert all((files.folder / name).read_bytes() == b"mine" for name in foreign)


def test_a_file_in_the_place_of_the_folder_is_said_in_one_line(tmp_path):
    (tmp_path / "models").write_bytes(b"")
    with pytest.raises(DiskFailed, match="File exists"):
        ModelFiles(tmp_path / "models")


def test_the_lock_of_a_dead_process_locks_nobody_out(files, model):
    (files.folder / f"{model.hex}.lock").write_bytes(b"")
    model.commit_into(files)
    assert not (files.folder / f"{model.hex}.lock").exists()


def test_a_lock_is_free_again_after_its_release(files):
    paths = RevisionPaths(files.folder, "a" * 64)
    lock = RevisionLock(paths)
    with pytest.raises(StagingBusy):
        RevisionLock(paths)
    lock.release()
    lock.release()
    RevisionLock(paths).release()
    assert not paths.lock.exists()


def test_a_lock_whose_file_its_last_holder_deleted_meanwhile_is_taken_again(files, monkeypatch):
    paths = RevisionPaths(files.folder, "a" * 64)
    flock = fcntl.flock
    deletions = 1

    def late(descriptor: int, how: int) -> None:
        nonlocal deletions
        if deletions:
            deletions -= 1
            paths.lock.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = RevisionLock(paths)
    with pytest.raises(StagingBusy):
        RevisionLock(paths)
    lock.release()
