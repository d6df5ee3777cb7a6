"""From a file to a folder of pieces, their index, and sums that `sha256sum -c` accepts.

One pass over the file. A piece that is already there is compared with its bytes and not written again; the index comes
last, so a folder without one is an unfinished split.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadPieces, NameTaken, Truncated, UnknownPieces
from deltaic.weights.model_file import check_file_name
from deltaic.weights.pieces.disk import appearing, blocks, growing_name, locked, open_file, sync_folder, write_all
from deltaic.weights.pieces.index import INDEX_NAME, SUMS_NAME, Piece, PieceIndex, read_index
from deltaic.weights.pieces.plan import By, Cut

if TYPE_CHECKING:
    from hashlib import _Hash

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); the first never decreases."""


@dataclass(frozen=True, slots=True)
class Split:
    """What a split did, in bytes of pieces: what it wrote, and what was there already and right."""

    index: PieceIndex
    written_bytes: int
    kept_bytes: int


def split(file: Path, folder: Path, by: By, cuts: Sequence[Cut], *, on_progress: Progress | None = None) -> Split:
    """Cut `file` into `folder`, which is made where it is absent. Run again after a kill, it goes on.

    Raises BadManifest (a file name that is not plain), NameTaken (the folder holds something else), PiecesBusy,
    Truncated (the file shrinks meanwhile), OSError.
    """
    check_file_name(file.name)
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with locked(place, folder), open_file(file) as source:
            return _Splitting(file, folder, by, cuts, source, on_progress).run()
    finally:
        os.close(place)


class _Splitting:
    """One split of one open file into one locked folder."""

    def __init__(
        self, file: Path, folder: Path, by: By, cuts: Sequence[Cut], source: int, on_progress: Progress | None
    ) -> None:
        self._file = file
        self._folder = folder
        self._by = by
        self._cuts = cuts
        self._source = source
        self._on_progress = on_progress
        self._size = cuts[-1].offset + cuts[-1].length
        self._whole = hashlib.sha256()
        self._told = 0

    def run(self) -> Split:
        expected = self._expected()
        pieces: list[Piece] = []
        written = 0
        for cut, known in zip(self._cuts, expected, strict=True):
            digest = self._kept(cut)
            if digest is None:
                digest = self._write(cut, known)
                written += cut.length
            elif known not in (None, digest):
                raise self._other_version()
            pieces.append(Piece(cut.name, cut.offset, digest))
        whole = Digest(self._whole.digest(), self._size)
        index = PieceIndex(self._file.name, whole, str(self._by), tuple(pieces))
        self._finish(index)
        return Split(index, written, self._size - written)

    def _expected(self) -> list[Digest | None]:
        """The pieces that a finished split left here, which this one may mend but not replace. Raises NameTaken."""
        names = [cut.name for cut in self._cuts] + [INDEX_NAME, SUMS_NAME]
        ours = {*names, *(growing_name(self._folder / name).name for name in names)}
        if foreign := next((path.name for path in sorted(self._folder.iterdir()) if path.name not in ours), None):
            raise NameTaken(
                f"{self._folder} holds something else, for example {foreign!r}", hint="choose an empty folder with -o"
            )
        try:
            index = read_index(self._folder)
        except (BadPieces, UnknownPieces):
            return [None] * len(self._cuts)
        made = [Cut(piece.name, piece.offset, piece.digest.size) for piece in index.pieces]
        if (index.file_name, made) != (self._file.name, list(self._cuts)):
            raise self._other_version()
        return [piece.digest for piece in index.pieces]

    def _other_version(self) -> NameTaken:
        return NameTaken(
            f"{self._folder} holds the pieces of another file, or of another version of {self._file.name}",
            hint="choose another folder with -o",
        )

    def _kept(self, cut: Cut) -> Digest | None:
        """The digest of a piece that is there and equal to the bytes of the file; None when it is to be written."""
        path = self._folder / cut.name
        if not path.is_file() or path.stat().st_size != cut.length:
            return None
        before, own, done = self._whole.copy(), hashlib.sha256(), cut.offset
        with open_file(path) as there:
            for block, found in zip(self._read(cut), blocks(there, 0, cut.length), strict=False):
                if block != found:
                    self._whole = before
                    return None
                done = self._count(own, block, done)
        return Digest(own.digest(), cut.length) if done == cut.offset + cut.length else None

    def _write(self, cut: Cut, known: Digest | None) -> Digest:
        own, done = hashlib.sha256(), cut.offset
        with appearing(self._folder / cut.name) as target:
            for block in self._read(cut):
                write_all(target, block, done - cut.offset)
                done = self._count(own, block, done)
            digest = Digest(own.digest(), cut.length)
            if known not in (None, digest):
                raise self._other_version()
        return digest

    def _read(self, cut: Cut) -> Iterator[bytes]:
        left = cut.length
        for block in blocks(self._source, cut.offset, cut.length):
            yield block
            left -= len(block)
        if left:
            raise Truncated(f"{self._file.name} became shorter while it was read", hint="nobody may write to it then")

    def _count(self, own: "_Hash", block: bytes, done: int) -> int:
        own.update(block)
        self._whole.update(block)
        done += len(block)
        if self._on_progress and done > self._told:
            self._told = done
            self._on_progress(done, self._size)
        return done

    def _finish(self, index: PieceIndex) -> None:
        sync_folder(self._folder)
        for name, data in ((SUMS_NAME, index.sums()), (INDEX_NAME, index.serialise())):
            path = self._folder / name
            if path.is_file() and path.read_bytes() == data:
                continue
            with appearing(path) as target:
                write_all(target, data, 0)
        for path in self._folder.iterdir():
            if path.name.startswith("."):  # a killed split's; any other hidden name was refused at the start
                path.unlink(missing_ok=True)
