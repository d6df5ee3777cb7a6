"""Staging beside others who write to the growing file, cut it, replace it: what they did never becomes a model."""

import os

import pytest
from staged import leave_half, made_of, part_of

from deltaic.store import part_file
from deltaic.store.errors import (
    ChunkDamaged,
    DiskFailed,
    FileMismatch,
    StagingLost,
)
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest, serialise


@pytest.mark.parametrize(
    "change", ["cut", "emptied", "grown", "replaced by rubbish", "a link", "a hard link", "a pipe"]
)
def test_a_growing_file_that_somebody_changed_is_finished_all_the_same(files, model, tmp_path, change):
    leave_half(files, model)
    part, outside = part_of(files, model), tmp_path / "outside"
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
    part_of(files, model).mkdir()
    with pytest.raises(DiskFailed, match="Is a directory"):
        files.stage(model.manifest)


def test_a_chunk_of_zeros_over_which_somebody_wrote_is_missing(files, make_model):
    zeros, ones = bytes(64 * 1024), b"\1" * 64 * 1024
    manifest, content = made_of(make_model().manifest, [zeros, ones])
    (files.folder / f"{manifest.digest.hex}.part").write_bytes(b"\2" + content[1:])
    with files.stage(manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [Digest.of(zeros)]
        staging.write(staging.missing[0], zeros)
        assert staging.commit().read_bytes() == content


def test_a_growing_file_that_was_replaced_is_not_committed(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        part = part_of(files, model)
        part.rename(part.with_suffix(".away"))
        part.write_bytes(bytes(model.manifest.size))
        with pytest.raises(StagingLost):
            staging.commit()
    assert files.path(model.hex) is None


def test_bytes_that_change_after_they_were_written_are_found_by_commit_and_written_again(files, model):
    chunk = model.largest
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        with part_of(files, model).open("r+b") as part:
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
        os.truncate(part_of(files, model), 100)
        with pytest.raises(ChunkDamaged):
            staging.commit()
        model.write_missing(staging)
        assert staging.commit().read_bytes() == model.content


def test_a_file_to_which_somebody_appended_while_it_grew_gets_its_size_back(files, model):
    with files.stage(model.manifest) as staging:
        model.write_missing(staging)
        with part_of(files, model).open("ab") as part:
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
        part = part_of(files, model)
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
