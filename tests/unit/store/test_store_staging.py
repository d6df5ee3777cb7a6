"""Staging: a file grows from verified chunks only, goes on where it stopped, and appears whole."""

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from staged import leave_half, made_of, part_of

from deltaic.store.errors import (
    AlreadyHeld,
    DiskFailed,
    ForeignChunk,
    StagingBusy,
    StagingClosed,
    StagingIncomplete,
)
from deltaic.store.model_files import ModelFiles
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch
from deltaic.weights.manifest import Chunk


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


def test_what_was_verified_is_never_asked_for_again(files, model):
    written = leave_half(files, model)
    with ModelFiles(files.folder).stage(model.manifest) as staging:
        assert {chunk.digest for chunk in staging.missing} == set(model.to_write) - written
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def test_only_bytes_that_match_count_after_a_restart(files, model):
    written = leave_half(files, model)
    spoilt = max(written, key=lambda digest: digest.size)
    with part_of(files, model).open("r+b") as part:
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
    assert not any(part_of(files, model).read_bytes())


def test_a_chunk_of_another_model_is_refused(files, model):
    stranger = b"from elsewhere"
    with files.stage(model.manifest) as staging, pytest.raises(ForeignChunk):
        staging.write(Chunk(Digest.of(stranger), 0), stranger)


def test_a_commit_with_missing_chunks_is_refused(files, model):
    leave_half(files, model)
    with files.stage(model.manifest) as staging, pytest.raises(StagingIncomplete, match="are missing"):
        staging.commit()
    assert files.path(model.hex) is None


def test_chunks_of_zeros_need_no_fetching_and_the_file_is_right(files, make_model):
    model = make_model()
    zeros, ones = bytes(64 * 1024), b"\1" * 64 * 1024
    manifest, content = made_of(model.manifest, [zeros, ones, zeros, ones, zeros])
    with files.stage(manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [Digest.of(ones)]
        staging.write(staging.missing[0], ones)
        assert staging.commit().read_bytes() == content


def test_a_chunk_that_occurs_many_times_is_written_everywhere_at_once(files, make_model):
    one, two = b"1" * 5000, b"2" * 3000
    manifest, content = made_of(make_model().manifest, [one, two, one, one])
    with files.stage(manifest) as staging:
        assert staging.missing_bytes == 8000
        staging.write(Chunk(Digest.of(one), 8000), one)
        assert staging.verified_bytes == 15000
        staging.write(Chunk(Digest.of(two), 5000), two)
        assert staging.commit().read_bytes() == content


def test_a_repeated_chunk_that_was_written_only_once_before_a_crash_is_copied_and_not_fetched(files, make_model):
    one, two = b"1" * 5000, b"2" * 3000
    manifest, content = made_of(make_model().manifest, [one, two, one])
    (files.folder / f"{manifest.digest.hex}.part").write_bytes(bytes(8000) + one)
    with files.stage(manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [Digest.of(two)]
        staging.write(staging.missing[0], two)
        assert staging.commit().read_bytes() == content


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
    part_of(files, model).mkdir()
    with pytest.raises(DiskFailed):
        files.stage(model.manifest)
    part_of(files, model).rmdir()
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
