"""Staging: a file grows from verified chunks only, goes on where it stopped, and appears whole."""

import errno
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from deltaic.store import part_file
from deltaic.store.errors import (
    AlreadyHeld,
    ChunkDamaged,
    DiskFailed,
    DiskFull,
    FileMismatch,
    ForeignChunk,
    StagingBusy,
    StagingClosed,
    StagingIncomplete,
    StagingLost,
)
from deltaic.store.model_files import ModelFiles
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch
from deltaic.weights.manifest import Chunk, Manifest, serialise


def _part(files: ModelFiles, model) -> Path:
    return files.folder / f"{model.hex}.part"


def _leave_half(files: ModelFiles, model) -> set[Digest]:
    """Stage every other chunk, then let go."""
    with files.stage(model.manifest) as staging:
        wanted = staging.missing[::2]
        for chunk in wanted:
            staging.write(chunk, model.bytes_of(chunk.digest))
    return {chunk.digest for chunk in wanted}


def test_a_new_file_misses_every_chunk_once_in_file_order(files, model):
    with files.stage(model.manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == model.to_write
        assert staging.missing_bytes == sum(digest.size for digest in model.to_write)
        assert staging.verified_bytes == model.manifest.size - staging.missing_bytes


def test_written_chunks_make_the_file(files, model):
    path = model.commit_into(files)
    assert path.name == f"{model.hex}.gguf"
    assert path.read_bytes() == model.content
    assert sorted(each.name for each in files.folder.iterdir()) == [f"{model.hex}.gguf", f"{model.hex}.manifest"]


def test_a_growing_file_takes_the_disk_only_for_what_was_written(files, make_model):
    model = make_model(ballast=3_000_000)
    smallest = min(model.manifest.chunks, key=lambda chunk: chunk.digest.size)
    with files.stage(model.manifest) as staging:
        staging.write(smallest, model.bytes_of(smallest.digest))
    assert _part(files, model).stat().st_size == model.manifest.size
    assert _part(files, model).stat().st_blocks * 512 < 100_000


def test_what_was_verified_is_never_asked_for_again(files, model):
    written = _leave_half(files, model)
    with ModelFiles(files.folder).stage(model.manifest) as staging:
        assert {chunk.digest for chunk in staging.missing} == set(model.to_write) - written
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def test_only_bytes_that_match_count_after_a_restart(files, model):
    written = _leave_half(files, model)
    spoilt = max(written, key=lambda digest: digest.size)
    with _part(files, model).open("r+b") as part:
        part.seek(model.manifest.unique[spoilt][0] + 5)
        byte = part.read(1)
        part.seek(-1, os.SEEK_CUR)
        part.write(bytes([byte[0] ^ 0x40]))
    with files.stage(model.manifest) as staging:
        assert spoilt in {chunk.digest for chunk in staging.missing}


def test_wrong_bytes_are_refused_and_not_written(files, model):
    chunk = model.largest
    with files.stage(model.manifest) as staging:
        with pytest.raises(DigestMismatch):
            staging.write(chunk, bytes(chunk.digest.size))
        assert chunk.digest in {each.digest for each in staging.missing}
    assert not any(_part(files, model).read_bytes())


def test_a_chunk_of_another_model_is_refused(files, model):
    stranger = b"from elsewhere"
    with files.stage(model.manifest) as staging, pytest.raises(ForeignChunk):
        staging.write(Chunk(Digest.of(stranger), 0), stranger)


def test_a_commit_with_missing_chunks_is_refused(files, model):
    _leave_half(files, model)
    with files.stage(model.manifest) as staging, pytest.raises(StagingIncomplete, match="are missing"):
        staging.commit()
    assert files.path(model.hex) is None


@pytest.mark.parametrize(
    "change", ["cut", "emptied", "grown", "replaced by rubbish", "a link", "a hard link", "a pipe"]
)
def test_a_growing_file_that_somebody_changed_is_finished_all_the_same(files, model, tmp_path, change):
    _leave_half(files, model)
    part, outside = _part(files, model), tmp_path / "outside"
    outside.write_bytes(b"precious")
    match change:
        case "cut":
            os.truncate(part, 1000)
        case "emptied":
            part.write_bytes(b"")
        case "grown":
            os.truncate(part, model.manifest.size + 12345)
        case "replaced by rubbish":
            part.write_bytes(os.urandom(model.manifest.size))
        case _:
            part.unlink()
            {"a link": part.symlink_to, "a hard link": part.hardlink_to}.get(change, lambda _: os.mkfifo(part))(outside)
    assert model.commit_into(files).read_bytes() == model.content
    assert outside.read_bytes() == b"precious"


def test_a_folder_in_the_place_of_the_file_is_said_in_one_line(files, model):
    _part(files, model).mkdir()
    with pytest.raises(DiskFailed, match="Is a directory"):
        files.stage(model.manifest)


def test_chunks_of_zeros_need_no_fetching_and_the_file_is_right(files, make_model):
    model = make_model()
    zeros, ones = bytes(64 * 1024), b"\1" * 64 * 1024
    manifest, content = _made_of(model.manifest, [zeros, ones, zeros, ones, zeros])
    with files.stage(manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [Digest.of(ones)]
        staging.write(staging.missing[0], ones)
        assert staging.commit().read_bytes() == content


def test_a_chunk_of_zeros_over_which_somebody_wrote_is_missing(files, make_model):
    zeros, ones = bytes(64 * 1024), b"\1" * 64 * 1024
    manifest, content = _made_of(make_model().manifest, [zeros, ones])
    (files.folder / f"{manifest.digest.hex}.part").write_bytes(b"\2" + content[1:])
    with files.stage(manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [Digest.of(zeros)]
        staging.write(staging.missing[0], zeros)
        assert staging.commit().read_bytes() == content


def test_a_chunk_that_occurs_many_times_is_written_everywhere_at_once(files, make_model):
    one, two = b"1" * 5000, b"2" * 3000
    manifest, content = _made_of(make_model().manifest, [one, two, one, one])
    with files.stage(manifest) as staging:
        assert staging.missing_bytes == 8000
        staging.write(Chunk(Digest.of(one), 8000), one)
        assert staging.verified_bytes == 15000
        staging.write(Chunk(Digest.of(two), 5000), two)
        assert staging.commit().read_bytes() == content


def test_a_repeated_chunk_that_was_written_only_once_before_a_crash_is_copied_and_not_fetched(files, make_model):
    one, two = b"1" * 5000, b"2" * 3000
    manifest, content = _made_of(make_model().manifest, [one, two, one])
    (files.folder / f"{manifest.digest.hex}.part").write_bytes(bytes(8000) + one)
    with files.stage(manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [Digest.of(two)]
        staging.write(staging.missing[0], two)
        assert staging.commit().read_bytes() == content


def test_a_file_system_without_holes_only_costs_time(files, model, monkeypatch):
    written = _leave_half(files, model)

    def no_holes(*_: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(part_file.os, "lseek", no_holes)
    with files.stage(model.manifest) as staging:
        assert {chunk.digest for chunk in staging.missing} == set(model.to_write) - written


def test_chunks_are_reused_from_other_files_and_only_the_rest_is_missing(files, make_model):
    first, second = make_model(ballast=200_000), make_model(ballast=200_000, chat_template="changed " * 200)
    first.commit_into(files)
    told: list[int] = []
    with files.stage(second.manifest) as staging:
        before = staging.missing_bytes
        reused = staging.reuse(told.append)
        assert reused == sum(told) == before - staging.missing_bytes
        assert {chunk.digest for chunk in staging.missing} == set(second.to_write) - set(first.to_write)
        assert reused > 0.9 * second.manifest.size
        second.write_missing(staging)
        assert staging.commit().read_bytes() == second.content


def test_damaged_bytes_are_not_reused(files, make_model):
    first, second = make_model(), make_model(general_name="Other")
    path = first.commit_into(files)
    shared = max(set(first.manifest.unique) & set(second.manifest.unique), key=lambda digest: digest.size)
    content = bytearray(first.content)
    content[first.manifest.unique[shared][0]] ^= 1
    path.write_bytes(content)
    with files.stage(second.manifest) as staging:
        staging.reuse()
        assert shared in {chunk.digest for chunk in staging.missing}


def test_a_second_staging_of_a_revision_is_refused_until_the_first_lets_go(files, model):
    with files.stage(model.manifest), pytest.raises(StagingBusy, match="staged, repaired or removed") as caught:
        ModelFiles(files.folder).stage(model.manifest)
    assert caught.value.code == "ABORTED"
    files.stage(model.manifest).close()


def test_a_staging_that_failed_to_open_leaves_no_lock(files, model):
    _part(files, model).mkdir()
    with pytest.raises(DiskFailed):
        files.stage(model.manifest)
    _part(files, model).rmdir()
    files.stage(model.manifest).close()
    assert not (files.folder / f"{model.hex}.lock").exists()


def test_a_staging_that_everybody_forgot_lets_go(files, model):
    staging = files.stage(model.manifest)
    staging.write(model.largest, model.bytes_of(model.largest.digest))
    del staging
    gc.collect()
    assert not (files.folder / f"{model.hex}.lock").exists()
    with files.stage(model.manifest) as again:
        assert model.largest.digest not in {chunk.digest for chunk in again.missing}


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


def test_two_revisions_are_staged_side_by_side(files, make_model):
    first, second = make_model(), make_model(seed=7)
    with files.stage(first.manifest) as one, files.stage(second.manifest) as two:
        first.write_missing(one)
        second.write_missing(two)
        one.commit()
        two.commit()
    assert len(files.revisions()) == 2


def test_a_complete_revision_cannot_be_staged(files, model):
    model.commit_into(files)
    with pytest.raises(AlreadyHeld):
        files.stage(model.manifest)
    with pytest.raises(AlreadyHeld):
        files.stage(model.manifest)


def test_what_another_process_completed_is_noticed_when_staging(files, model):
    model.commit_into(ModelFiles(files.folder))
    assert files.path(model.hex) is None
    with pytest.raises(AlreadyHeld):
        files.stage(model.manifest)
    assert files.path(model.hex) is not None


def test_after_close_and_after_commit_nothing_is_written(files, model):
    staging = files.stage(model.manifest)
    staging.close()
    staging.close()
    with pytest.raises(StagingClosed):
        staging.write(model.largest, model.bytes_of(model.largest.digest))
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        staging.commit()
        with pytest.raises(StagingClosed):
            staging.commit()


def test_a_growing_file_that_was_replaced_is_not_committed(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        part = _part(files, model)
        part.rename(part.with_suffix(".away"))
        part.write_bytes(bytes(model.manifest.size))
        with pytest.raises(StagingLost):
            staging.commit()
    assert files.path(model.hex) is None


def test_bytes_that_change_after_they_were_written_are_found_by_commit_and_written_again(files, model):
    chunk = model.largest
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        with _part(files, model).open("r+b") as part:
            part.seek(chunk.offset)
            part.write(bytes(chunk.digest.size))
        with pytest.raises(ChunkDamaged, match="1 chunks"):
            staging.commit()
        assert [each.digest for each in staging.missing] == [chunk.digest]
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def test_a_file_cut_while_it_grew_is_found_by_commit(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        os.truncate(_part(files, model), 100)
        with pytest.raises(ChunkDamaged):
            staging.commit()
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def test_a_file_to_which_somebody_appended_while_it_grew_gets_its_size_back(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        with _part(files, model).open("ab") as part:
            part.write(b"more")
        assert staging.commit().read_bytes() == model.content


def test_a_file_cut_behind_our_back_is_no_longer_held_once_it_is_staged_again(files, model):
    os.truncate(model.commit_into(files), 1000)
    with files.stage(model.manifest):
        assert files.path(model.hex) is None
        assert files.locate(model.largest.digest) == []


def test_a_manifest_whose_chunks_do_not_make_its_file_never_becomes_a_model(files, model):
    file = model.manifest.file
    lying = Manifest.parse(
        serialise(type(file)(file.name, Digest(bytes(32), file.digest.size), "llama", file.segments))
    )
    with files.stage(lying) as staging:
        model.write_missing(staging)
        with pytest.raises(FileMismatch, match="publish"):
            staging.commit()
    assert files.path(lying.digest.hex) is None


def test_many_threads_write_one_file(files, model):
    with files.stage(model.manifest) as staging, ThreadPoolExecutor(8) as pool:
        chunks = staging.missing * 3
        list(pool.map(lambda chunk: staging.write(chunk, model.bytes_of(chunk.digest)), chunks))
        assert staging.commit().read_bytes() == model.content


def test_close_waits_for_a_write_that_has_begun(files, model, monkeypatch):
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    pwrite = os.pwrite

    def slow(descriptor: int, data: memoryview, offset: int) -> int:
        begun.set()
        assert go_on.wait(10)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    staging = files.stage(model.manifest)
    chunk = model.largest
    writer = threading.Thread(target=staging.write, args=(chunk, model.bytes_of(chunk.digest)))
    closer = threading.Thread(target=lambda: (staging.close(), closed.set()))
    writer.start()
    assert begun.wait(10)
    closer.start()
    assert not closed.wait(0.1)
    go_on.set()
    writer.join(10)
    assert closed.wait(10)
    closer.join(10)
    with files.stage(model.manifest) as again:
        assert chunk.digest not in {each.digest for each in again.missing}


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


@pytest.mark.parametrize("order", ["backwards", "outwards", "at random"])
def test_the_order_in_which_chunks_come_does_not_matter(files, model, order):
    chunks = {
        "backwards": lambda each: -each.offset,
        "outwards": lambda each: abs(each.offset - model.manifest.size // 2),
        "at random": lambda each: each.digest.sha256,
    }
    with files.stage(model.manifest) as staging:
        for chunk in sorted(staging.missing, key=chunks[order]):
            staging.write(chunk, model.bytes_of(chunk.digest))
        assert staging.commit().read_bytes() == model.content


@pytest.mark.parametrize("stamps", ["each change", "the tick"])
@pytest.mark.parametrize("harm", ["write", "cut"])
def test_what_somebody_else_did_while_the_file_grew_is_found_although_it_was_hashed_before(
    files, model, monkeypatch, harm, stamps
):
    if stamps == "the tick":
        monkeypatch.setattr(part_file, "_stamps_each_change", lambda _: False)
    with files.stage(model.manifest) as staging:
        first, *others, last = staging.missing
        for chunk in [first, *others]:
            staging.write(chunk, model.bytes_of(chunk.digest))
        part = _part(files, model)
        if harm == "cut":
            os.truncate(part, first.offset + 1)
            os.truncate(part, model.manifest.size)
        else:
            with part.open("r+b") as file:
                file.seek(first.offset)
                file.write(bytes(first.digest.size))
        staging.write(last, model.bytes_of(last.digest))
        with pytest.raises(ChunkDamaged):
            staging.commit()
        assert first.digest in {chunk.digest for chunk in staging.missing}
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def test_a_chunk_may_come_in_pieces(files, model):
    chunk = model.largest
    data = model.bytes_of(chunk.digest)
    with files.stage(model.manifest) as staging:
        with pytest.raises(DigestMismatch):
            staging.write_pieces(chunk, [data[:1000], data[1001:]])
        staging.write_pieces(chunk, [data[:1000], b"", memoryview(data)[1000:5000], bytearray(data[5000:])])
        assert chunk.digest not in {each.digest for each in staging.missing}
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


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


def _made_of(like: Manifest, pieces: list[bytes]) -> tuple[Manifest, bytes]:
    """A manifest of one padding segment a piece: any content at all, in the shape of a model's file."""
    from deltaic.weights.layout import SegmentKind
    from deltaic.weights.model_file import ModelFile, Segment

    segments, offset = [], 0
    for index, piece in enumerate(pieces):
        kind = SegmentKind.PADDING if index else SegmentKind.HEADER
        segments.append(Segment(kind, f"piece {index}", "", (), offset, len(piece), (Digest.of(piece),)))
        offset += len(piece)
    content = b"".join(pieces)
    file = ModelFile(like.file_name, Digest.of(content), "llama", tuple(segments))
    return Manifest.parse(serialise(file)), content
