"""Staging and its disk: what is flushed when, what is read twice, and disks that are full or fail."""

import errno
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
from staged import leave_half, part_of

from deltaic.store import part_file
from deltaic.store.errors import (
    ChunkDamaged,
    DiskFailed,
    DiskFull,
)
from deltaic.store.model_files import ModelFiles


def test_a_growing_file_takes_the_disk_only_for_what_was_written(files, make_model):
    model = make_model(ballast=3_000_000)
    smallest = min(model.manifest.chunks, key=lambda chunk: chunk.digest.size)
    with files.stage(model.manifest) as staging:
        staging.write(smallest, model.bytes_of(smallest.digest))
    assert part_of(files, model).stat().st_size == model.manifest.size
    assert part_of(files, model).stat().st_blocks * 512 < 100_000


def test_a_file_system_without_holes_only_costs_time(files, model, monkeypatch):
    written = leave_half(files, model)

    def no_holes(*_: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(part_file.os, "lseek", no_holes)
    with files.stage(model.manifest) as staging:
        assert {chunk.digest for chunk in staging.missing} == set(model.to_write) - written


def test_commit_flushes_the_file_then_the_manifest_and_only_then_gives_the_file_its_name(files, model, monkeypatch):
    steps: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def name_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name.replace(model.hex, "x")

    def renaming(call):
        def noted(source: Path, target: Path) -> None:
            steps.append(f"{source.name} to {target.name}".replace(model.hex, "x"))
            call(source, target)

        return noted

    monkeypatch.setattr(os, "fsync", lambda descriptor: (steps.append(name_of(descriptor)), fsync(descriptor)))
    monkeypatch.setattr(os, "rename", renaming(rename))
    monkeypatch.setattr(os, "replace", renaming(replace))
    model.commit_into(files)
    assert steps == [
        "x.part",
        "x.manifest.tmp",
        "x.manifest.tmp to x.manifest",
        "models",
        "x.part to x.gguf",
        "models",
    ]


def test_a_kernel_that_writes_and_reads_only_a_little_at_a_time_is_served(files, model, monkeypatch):
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:777], offset))
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: pread(descriptor, min(size, 999), offset))
    assert model.commit_into(files).read_bytes() == model.content
    assert files.damaged(model.hex) == []


def test_a_disk_that_fills_up_keeps_what_is_verified_and_shows_nothing_whole(files, model, monkeypatch):
    pwrite, room = os.pwrite, 100_000

    def filling(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = pwrite(descriptor, data[:room], offset)
        room -= written
        return written

    monkeypatch.setattr(os, "pwrite", filling)
    with files.stage(model.manifest) as staging:
        with pytest.raises(DiskFull, match="more bytes are needed; free space") as caught:
            model.write_missing(staging)
        assert str(files.folder) in caught.value.message
        assert int(caught.value.metadata["needed_bytes"]) == staging.missing_bytes
        verified = set(model.manifest.unique) - {chunk.digest for chunk in staging.missing}
    assert files.path(model.hex) is None
    monkeypatch.undo()
    with files.stage(model.manifest) as staging:
        assert set(model.manifest.unique) - {chunk.digest for chunk in staging.missing} == verified
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def test_a_disk_without_room_is_refused_before_anything_is_fetched(files, model, monkeypatch):
    monkeypatch.setattr("deltaic.store.staging.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFull, match=f"{sum(digest.size for digest in model.to_write):,} more bytes"):
        files.stage(model.manifest)
    monkeypatch.undo()
    files.stage(model.manifest).close()


def test_a_repair_in_place_needs_no_room(files, model, monkeypatch):
    path = model.commit_into(files)
    content = bytearray(model.content)
    content[model.largest.offset] ^= 1
    path.write_bytes(content)
    files.reopen(model.hex)
    monkeypatch.setattr("deltaic.store.staging.free_bytes", lambda folder: 8192)
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


@pytest.mark.parametrize("failing", ["fsync", "rename", "replace"])
def test_a_commit_that_the_disk_refuses_can_be_tried_again(files, model, monkeypatch, failing):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        monkeypatch.setattr(os, failing, full)
        with pytest.raises(DiskFull):
            staging.commit()
        monkeypatch.undo()
        assert ModelFiles(files.folder).path(model.hex) is None
        assert staging.commit().read_bytes() == model.content
    assert not list(files.folder.glob("*.tmp"))


def test_commit_reads_nothing_again_that_was_hashed_while_the_file_grew(files, model, monkeypatch):
    reads: list[int] = []
    read = os.preadv

    def counted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(offset)
        return read(descriptor, buffers, offset)

    with files.stage(model.manifest) as staging:
        if not _tells_changes(files.folder):
            pytest.skip("this kernel stamps changes by the tick: commit has to read the file")
        monkeypatch.setattr(os, "preadv", counted)
        model.write_missing(staging)
        assert len(reads) == len(model.manifest.chunks)
        staging.commit()
        assert len(reads) == len(model.manifest.chunks)


def test_the_disk_works_while_the_file_grows(files, model, monkeypatch):
    flushed = threading.Event()
    monkeypatch.setattr(part_file, "WRITE_BACK_BYTES", 50_000)
    monkeypatch.setattr(os, "fdatasync", lambda _: flushed.set())
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        assert flushed.wait(10)
        assert staging.commit().read_bytes() == model.content


@pytest.mark.parametrize(("number", "expected"), [(errno.EIO, DiskFailed), (errno.ENOSPC, DiskFull)])
def test_a_flush_that_failed_beside_the_fetch_is_told_once_and_what_was_lost_is_found(
    files, model, monkeypatch, number, expected
):
    failed = threading.Event()

    def fail(descriptor: int) -> None:
        os.pwrite(descriptor, b"\xff" * 64, 0)  # what a disk that lost a block would give back
        failed.set()
        raise OSError(number, os.strerror(number))

    with files.stage(model.manifest) as staging:
        *others, last = staging.missing
        for chunk in others:
            staging.write(chunk, model.bytes_of(chunk.digest))
        monkeypatch.setattr(part_file, "WRITE_BACK_BYTES", 1)
        monkeypatch.setattr(os, "fdatasync", fail)
        staging.write(last, model.bytes_of(last.digest))
        assert failed.wait(10)
        monkeypatch.undo()
        with pytest.raises(expected):
            staging.commit()
        assert ModelFiles(files.folder).path(model.hex) is None
        with pytest.raises(ChunkDamaged):
            staging.commit()
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def _tells_changes(folder: Path) -> bool:
    with closing(part_file.PartFile(folder / "probe", 10)) as probe:
        return probe.tells_changes
