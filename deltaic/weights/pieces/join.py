"""From a folder of pieces to the file that they are: verified piece by piece and as a whole before it gets its name.

The growing file is its own journal: what in it hashes to a piece is that piece and is not written again.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadPieces, NameTaken, PiecesBusy, PiecesUnusable
from deltaic.weights.pieces.disk import blocks, growing_name, locked, open_file, sync_folder, write_all
from deltaic.weights.pieces.index import INDEX_NAME, Piece, PieceIndex, read_index

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); the first never decreases."""

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Joined:
    """What a join did: the bytes that it wrote, and those that were in place already."""

    path: Path
    index: PieceIndex
    written_bytes: int
    kept_bytes: int


def join(folder: Path, target: Path | None = None, *, on_progress: Progress | None = None) -> Joined:
    """Make the file of a folder of pieces, by default under its own name in the working folder.

    Run again after a kill, it goes on. Raises BadPieces, UnknownPieces, NameTaken (another file is at the target),
    PiecesUnusable (names every piece that is missing or damaged; what is joined stays), PiecesBusy, OSError.
    """
    index = read_index(folder)
    target = target or Path(index.file_name)
    if target.exists():
        return _there_already(target, index, on_progress)
    growing = growing_name(target)
    descriptor = _open_growing(growing)
    try:
        with locked(descriptor, growing):
            _check_named(descriptor, growing)
            joining = _Joining(folder, index, descriptor, on_progress)
            joining.run(growing)
            os.fsync(descriptor)
            if target.exists():
                raise _taken(target)
            growing.rename(target)
            sync_folder(target.parent)
    finally:
        os.close(descriptor)
    return Joined(target, index, joining.written, index.digest.size - joining.written)


class _Joining:
    """One join into one locked, growing file."""

    def __init__(self, folder: Path, index: PieceIndex, descriptor: int, on_progress: Progress | None) -> None:
        self._folder = folder
        self._index = index
        self._descriptor = descriptor
        self._on_progress = on_progress
        self._whole = hashlib.sha256()
        self._told = 0
        self.written = 0

    def run(self, growing: Path) -> None:
        unusable = [wrong for piece in self._index.pieces if (wrong := self._place(piece))]
        if unusable:
            raise _unusable(self._folder, unusable)
        os.ftruncate(self._descriptor, self._index.digest.size)
        if self._whole.digest() != self._index.digest.sha256:
            growing.unlink()
            raise BadPieces(
                f"every piece is right but the whole is not {self._index.digest}: {INDEX_NAME} contradicts itself",
                hint="split the file again",
            )

    def _place(self, piece: Piece) -> str:
        """Have a piece in its place in the growing file; what is wrong with it, or "" when nothing is."""
        if os.fstat(self._descriptor).st_size < piece.end or not self._is(piece, self._descriptor, piece.offset):
            path = self._folder / piece.name
            try:
                with open_file(path) as source:
                    if (size := os.fstat(source).st_size) != piece.digest.size:
                        return f"{piece.name} has {size:,} bytes instead of {piece.digest.size:,}"
                    if not self._is(piece, source, 0, copy=True):
                        return f"{piece.name} is damaged"
            except FileNotFoundError:
                return f"{piece.name} is missing"
            self.written += piece.digest.size
        return ""

    def _is(self, piece: Piece, descriptor: int, offset: int, *, copy: bool = False) -> bool:
        """Whether the bytes there are those of a piece; if so they count towards the whole. They are copied if asked.

        Bytes that are copied and then turn out wrong are found wrong again by whoever comes next.
        """
        whole, own, done = self._whole.copy(), hashlib.sha256(), piece.offset
        for block in blocks(descriptor, offset, piece.digest.size):
            own.update(block)
            whole.update(block)
            if copy:
                write_all(self._descriptor, block, done)
            done += len(block)
            if self._on_progress and done > self._told:
                self._told = done
                self._on_progress(done, self._index.digest.size)
        if own.digest() != piece.digest.sha256:
            return False
        self._whole = whole
        return True


def _open_growing(growing: Path) -> int:
    """Open or create; what is not a plain file of this name only (a link, a pipe) is replaced by one."""
    try:
        facts = growing.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            growing.unlink()
    except FileNotFoundError:
        pass
    return os.open(growing, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _check_named(descriptor: int, growing: Path) -> None:
    """Raises PiecesBusy when another join finished this file between our open and our lock."""
    ours = os.fstat(descriptor)
    try:
        named = growing.lstat()
    except FileNotFoundError:
        named = None
    if named is None or (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
        raise PiecesBusy(f"somebody else has just worked on {growing}", hint="try again")


def _there_already(target: Path, index: PieceIndex, on_progress: Progress | None) -> Joined:
    """A join that was killed after its last step, or done twice, has nothing to do. Raises NameTaken."""
    if not target.is_file() or target.stat().st_size != index.digest.size:
        raise _taken(target)
    whole, done = hashlib.sha256(), 0
    with open_file(target) as there:
        for block in blocks(there, 0, index.digest.size):
            whole.update(block)
            done += len(block)
            if on_progress:
                on_progress(done, index.digest.size)
    if Digest(whole.digest(), done) != index.digest:
        raise _taken(target)
    sync_folder(target.parent)
    return Joined(target, index, 0, index.digest.size)


def _taken(target: Path) -> NameTaken:
    return NameTaken(f"another file is at {target}", hint="move it away, or choose another name with -o")


def _unusable(folder: Path, wrong: list[str]) -> PiecesUnusable:
    named = ", ".join(wrong[:_MOST_NAMED])
    more = f" and {len(wrong) - _MOST_NAMED:,} more" if len(wrong) > _MOST_NAMED else ""
    return PiecesUnusable(
        f"in {folder}: {named}{more}",
        hint="copy these pieces again and run join again; what is joined stays and is not read twice",
    )
