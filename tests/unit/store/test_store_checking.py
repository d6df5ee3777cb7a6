"""Checking files at rest: every wrong chunk is found, and nothing is changed by looking."""

from pathlib import Path

import pytest

from deltaic.store.checking import Health, check_folder, check_revision
from deltaic.store.errors import RevisionNotHeld
from deltaic.store.model_files import ModelFiles
from deltaic.store.places import RevisionPaths


@pytest.fixture
def paths(files: ModelFiles, model) -> RevisionPaths:
    """One complete revision."""
    model.commit_into(files)
    return RevisionPaths(files.folder, model.hex)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_good_file_is_ok(paths: RevisionPaths, model) -> None:
    before = snapshot(paths.folder)
    (found,) = check_folder(paths.folder)
    assert (found.hex, found.health, found.bad, found.is_bad) == (model.hex, Health.OK, (), False)
    assert found.size == len(model.content)
    assert snapshot(paths.folder) == before


def test_every_chunk_with_a_wrong_bit_is_found_and_no_other(paths: RevisionPaths, model) -> None:
    chosen = [model.manifest.chunks[0], model.manifest.chunks[-1], model.largest]
    for chunk in chosen:
        flip(paths.model, chunk.end - 1)
    before = snapshot(paths.folder)
    (found,) = check_folder(paths.folder)
    assert found.health is Health.DAMAGED
    assert set(found.bad) == set(chosen)
    assert list(found.bad) == sorted(found.bad, key=lambda chunk: chunk.offset)
    assert found.bad_bytes == sum(chunk.digest.size for chunk in set(chosen))
    assert snapshot(paths.folder) == before, "looking changes nothing"


def test_a_file_that_was_cut_lacks_the_chunks_behind_the_cut(paths: RevisionPaths, model) -> None:
    with paths.model.open("r+b") as file:
        file.truncate(model.largest.offset)
    (found,) = check_folder(paths.folder)
    assert found.health is Health.DAMAGED
    assert set(found.bad) == {chunk for chunk in model.manifest.chunks if chunk.end > model.largest.offset}


def test_a_file_that_grew_is_damaged_though_every_chunk_is_right(paths: RevisionPaths) -> None:
    with paths.model.open("ab") as file:
        file.write(b"?")
    (found,) = check_folder(paths.folder)
    assert (found.health, found.bad, found.is_bad) == (Health.DAMAGED, (), True)


@pytest.mark.parametrize("damage", ["gone", "flipped", "of another revision"])
def test_without_its_manifest_nothing_of_a_file_is_believed(
    damage: str, paths: RevisionPaths, make_model, model
) -> None:
    if damage == "gone":
        paths.manifest.unlink()
    elif damage == "flipped":
        flip(paths.manifest, 40)
    else:
        paths.manifest.write_bytes(make_model(seed=3).manifest.data)
    (found,) = check_folder(paths.folder)
    assert (found.health, found.is_bad, found.manifest) == (Health.NO_MANIFEST, True, None)


def test_a_growing_file_is_unfinished_and_not_bad(files: ModelFiles, model) -> None:
    with files.stage(model.manifest) as staging:
        chunk = staging.missing[0]
        staging.write(chunk, model.bytes_of(chunk.digest))
        (found,) = check_folder(files.folder)
    assert (found.health, found.is_bad) == (Health.UNFINISHED, False)


def test_leftovers_that_mean_nothing_are_not_listed(paths: RevisionPaths) -> None:
    paths.model.unlink()
    assert check_folder(paths.folder) == []
    with pytest.raises(RevisionNotHeld):
        check_revision(paths.folder, paths.hex, None)


def test_files_of_others_are_not_looked_at(files: ModelFiles) -> None:
    (files.folder / "notes.txt").write_text("mine")
    assert check_folder(files.folder) == []


def test_progress_covers_all_revisions_and_never_goes_back(files: ModelFiles, model, make_model) -> None:
    other = make_model(seed=1)
    for one in (model, other):
        one.commit_into(files)
    seen: list[tuple[int, int]] = []
    check_folder(files.folder, lambda *at: seen.append(at))
    total = len(model.content) + len(other.content)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
