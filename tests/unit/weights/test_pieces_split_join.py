"""Splitting and joining: the same bytes come back, nothing right is written twice, and nothing else is overwritten."""

import fcntl
import json
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest, BadPieces, NameTaken, PiecesBusy, PiecesUnusable, Truncated
from deltaic.weights.pieces import split as splitting
from deltaic.weights.pieces.index import INDEX_NAME, SUMS_NAME, parse
from deltaic.weights.pieces.join import Joined, join
from deltaic.weights.pieces.plan import By, Cut, cuts_of
from deltaic.weights.pieces.split import Split, split

BY = [(By.TENSOR, 0), (By.LAYER, 0), (By.SIZE, 3000)]


def cut(file: Path, folder: Path, by: By = By.SIZE, size: int = 3000, **options: object) -> Split:
    return split(file, folder, by, cuts_of(file, by, size), **options)


@pytest.fixture
def file(tiny_gguf) -> Path:
    return tiny_gguf("model.gguf")


@pytest.fixture
def folder(file: Path, tmp_path: Path) -> Path:
    """The pieces of the file, finished."""
    cut(file, tmp_path / "pieces")
    return tmp_path / "pieces"


def times(folder: Path) -> dict[str, int]:
    """When each file was written: what is not written again keeps its time and its number."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.piece"))


@pytest.mark.parametrize(("by", "size"), BY)
def test_what_is_split_and_joined_is_the_same_file(by: By, size: int, file: Path, tmp_path: Path) -> None:
    made = cut(file, tmp_path / "pieces", by, size)
    assert made.written_bytes == file.stat().st_size
    joined = join(tmp_path / "pieces", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == file.read_bytes()
    assert joined == Joined(tmp_path / "again.gguf", made.index, file.stat().st_size, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.gguf", "pieces"]


@pytest.mark.parametrize(("by", "size"), BY)
def test_sha256sum_accepts_the_sums_and_finds_a_changed_piece(by: By, size: int, file: Path, tmp_path: Path) -> None:
    cut(file, tmp_path, by, size)

    def check() -> "subprocess.CompletedProcess[str]":
        command = ["sha256sum", "--check", "--strict", SUMS_NAME]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    good = check()
    assert good.returncode == 0, good.stderr
    assert len(good.stdout.splitlines()) == len(pieces(tmp_path)) + 1
    piece = pieces(tmp_path)[-1]
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    assert f"{piece.name}: FAILED" in check().stdout


def test_the_index_knows_the_whole_file(file: Path, folder: Path) -> None:
    index = parse((folder / INDEX_NAME).read_bytes())
    assert index.digest == Digest.of(file.read_bytes())
    assert (index.file_name, index.by) == ("model.gguf", "size")


def test_a_file_joined_by_default_has_its_own_name(
    file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    join(folder)
    assert (tmp_path / "model.gguf").read_bytes() == file.read_bytes()


def test_splitting_again_writes_nothing(file: Path, folder: Path) -> None:
    before = times(folder)
    again = cut(file, folder)
    assert (again.written_bytes, again.kept_bytes) == (0, file.stat().st_size)
    assert times(folder) == before


def test_a_split_that_was_killed_goes_on_where_it_was(file: Path, folder: Path) -> None:
    (folder / INDEX_NAME).unlink()
    (folder / SUMS_NAME).unlink()
    first, *_, last = pieces(folder)
    last.rename(last.with_name(f".{last.name}.part"))
    before = times(folder)
    again = cut(file, folder)
    assert again.written_bytes == last.stat().st_size
    assert times(folder)[first.name] == before[first.name]
    assert not list(folder.glob(".*")), "the unfinished piece is gone"


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown", "gone"])
def test_splitting_again_mends_only_what_is_damaged(damage: str, file: Path, folder: Path) -> None:
    piece = pieces(folder)[1]
    content = piece.read_bytes()
    bad = {"flipped": content[:-1] + b"?", "cut": content[:-1], "grown": content + b"?", "gone": b""}[damage]
    piece.write_bytes(bad)
    if damage == "gone":
        piece.unlink()
    before = times(folder)
    assert cut(file, folder).written_bytes == len(content)
    assert piece.read_bytes() == content
    changed = {name for name, when in times(folder).items() if before.get(name) != when}
    assert changed == {piece.name}


def test_the_pieces_of_another_version_are_not_overwritten(file: Path, folder: Path, tiny_gguf) -> None:
    other = tiny_gguf("model.gguf", seed=9)
    before = times(folder)
    with pytest.raises(NameTaken, match=r"another version of model\.gguf"):
        cut(other, folder)
    assert times(folder) == before


@pytest.mark.parametrize(("by", "size"), [(By.SIZE, 2000), (By.TENSOR, 0)])
def test_a_folder_of_pieces_cut_otherwise_is_not_mixed_with(by: By, size: int, file: Path, folder: Path) -> None:
    before = times(folder)
    with pytest.raises(NameTaken):
        cut(file, folder, by, size)
    assert times(folder) == before


def test_a_folder_with_other_files_is_left_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(NameTaken, match=r"letters\.txt"):
        cut(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_two_splits_do_not_work_in_one_folder(file: Path, folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(PiecesBusy):
        cut(file, folder)
    os.close(descriptor)
    cut(file, folder)


def test_a_file_that_shrinks_while_it_is_split_is_noticed(file: Path, tmp_path: Path) -> None:
    cuts = [Cut("0000-gguf.piece", 0, file.stat().st_size + 1)]
    with pytest.raises(Truncated, match="became shorter"):
        split(file, tmp_path / "pieces", By.SIZE, cuts)
    assert list((tmp_path / "pieces").iterdir()) == []


def test_a_file_whose_name_others_could_not_use_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "a:b.bin"
    odd.write_bytes(b"x")
    with pytest.raises(BadManifest, match="not a plain file name"):
        cut(odd, tmp_path / "pieces")
    assert not (tmp_path / "pieces").exists()


def test_joining_again_finds_the_file_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "again.gguf"
    join(folder, target)
    before = target.stat()
    assert join(folder, target).written_bytes == 0
    assert target.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("content", [b"short", None])
def test_another_file_with_that_name_is_not_overwritten(
    content: bytes | None, file: Path, folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "again.gguf"
    there = content or bytes(file.stat().st_size)
    target.write_bytes(there)
    with pytest.raises(NameTaken, match="choose another name"):
        join(folder, target)
    assert target.read_bytes() == there


def test_a_join_that_was_killed_goes_on_where_it_was(file: Path, folder: Path, tmp_path: Path) -> None:
    growing = tmp_path / ".again.gguf.part"
    growing.write_bytes(file.read_bytes()[:6500])  # two pieces of 3,000 bytes and a part of the third
    for piece in pieces(folder)[:2]:
        piece.unlink()  # what is in place is not read again
    joined = join(folder, tmp_path / "again.gguf")
    assert joined.kept_bytes == 6000
    assert joined.written_bytes == file.stat().st_size - 6000
    assert (tmp_path / "again.gguf").read_bytes() == file.read_bytes()
    assert not growing.exists()


def test_what_an_earlier_join_left_is_believed_only_by_its_sum(file: Path, folder: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[3001] ^= 1
    (tmp_path / ".again.gguf.part").write_bytes(bytes(content) + b"and too much")
    joined = join(folder, tmp_path / "again.gguf")
    assert joined.written_bytes == 3000
    assert (tmp_path / "again.gguf").read_bytes() == file.read_bytes()


def test_every_missing_and_damaged_piece_is_named_and_the_rest_is_kept(
    file: Path, folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    shutil.copytree(folder, saved)
    first, second, third, *_ = pieces(folder)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    target = tmp_path / "again.gguf"
    with pytest.raises(PiecesUnusable) as refused:
        join(folder, target)
    assert f"{first.name} is missing" in refused.value.message
    assert f"{second.name} is damaged" in refused.value.message
    assert third.name not in refused.value.message
    assert "copy these pieces again" in refused.value.hint
    assert not target.exists()
    for piece in (first, second):
        shutil.copy(saved / piece.name, piece)
    joined = join(folder, target)
    assert joined.kept_bytes == file.stat().st_size - 6000
    assert target.read_bytes() == file.read_bytes()


def test_many_missing_pieces_are_counted(file: Path, tmp_path: Path) -> None:
    cut(file, tmp_path / "pieces", By.SIZE, 100)
    gone = pieces(tmp_path / "pieces")
    for piece in gone:
        piece.unlink()
    with pytest.raises(PiecesUnusable, match=f"and {len(gone) - 10} more"):
        join(tmp_path / "pieces", tmp_path / "again.gguf")


def test_a_piece_of_another_size_is_not_read(folder: Path, tmp_path: Path) -> None:
    with pieces(folder)[0].open("ab") as piece:
        piece.truncate(1 << 40)  # sparse
    with pytest.raises(PiecesUnusable, match="1,099,511,627,776 bytes instead of 3,000"):
        join(folder, tmp_path / "again.gguf")


def test_a_pipe_in_the_place_of_a_piece_is_refused_not_waited_for(folder: Path, tmp_path: Path) -> None:
    piece = pieces(folder)[0]
    piece.unlink()
    os.mkfifo(piece)
    with pytest.raises(BadPieces, match="not a regular file"):
        join(folder, tmp_path / "again.gguf")


def test_a_link_in_the_place_of_the_growing_file_is_never_written_through(
    file: Path, folder: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("do not lose me")
    (tmp_path / ".again.gguf.part").symlink_to(precious)
    join(folder, tmp_path / "again.gguf")
    assert precious.read_text() == "do not lose me"
    assert (tmp_path / "again.gguf").read_bytes() == file.read_bytes()


def test_right_pieces_with_a_wrong_whole_never_get_a_name(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / INDEX_NAME).read_bytes())
    content["sha256"] = "0" * 64
    (folder / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(BadPieces, match="contradicts itself"):
        join(folder, tmp_path / "again.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["pieces"]


def test_two_joins_do_not_work_on_one_file(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / ".again.gguf.part").open("wb") as growing:
        fcntl.flock(growing, fcntl.LOCK_EX)
        with pytest.raises(PiecesBusy):
            join(folder, tmp_path / "again.gguf")
    join(folder, tmp_path / "again.gguf")


def test_a_folder_without_an_index_is_no_folder_of_pieces(folder: Path, tmp_path: Path) -> None:
    (folder / INDEX_NAME).unlink()
    with pytest.raises(BadPieces, match="that deltaic split has made, and finished"):
        join(folder, tmp_path / "again.gguf")


def test_progress_never_goes_back_and_ends_at_the_end(file: Path, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pieces(folder)[1].write_bytes(bytes(3000))
    cut(file, folder, on_progress=lambda *at: seen.append(at))
    assert seen == sorted(set(seen))
    assert seen[-1] == (file.stat().st_size,) * 2
    seen.clear()
    (tmp_path / ".again.gguf.part").write_bytes(bytes(file.stat().st_size))
    join(folder, tmp_path / "again.gguf", on_progress=lambda *at: seen.append(at))
    assert seen == sorted(set(seen))
    assert seen[-1] == (file.stat().st_size,) * 2


def test_memory_is_bounded_whatever_the_size_of_a_piece(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(96 << 20)
    tracemalloc.start()
    cut(large, tmp_path / "pieces", By.SIZE, 64 << 20)
    join(tmp_path / "pieces", tmp_path / "again.bin")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_full_disk_leaves_no_piece_under_its_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(splitting, "write_all", full)
    with pytest.raises(OSError, match="No space left"):
        cut(file, tmp_path / "pieces")
    assert list((tmp_path / "pieces").iterdir()) == []
