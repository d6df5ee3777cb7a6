"""Split, then join, is identity: for any bytes, any size of pieces, and whatever an earlier join left."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from deltaic.weights.pieces.join import join
from deltaic.weights.pieces.plan import By, cuts_of
from deltaic.weights.pieces.split import split


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=5000),
    size=st.integers(min_value=1, max_value=6000),
    left=st.binary(max_size=6000),
    kept=st.integers(min_value=0, max_value=5000),
)
def test_split_then_join_is_identity(content: bytes, size: int, left: bytes, kept: int) -> None:
    size = max(size, len(content) // 50 + 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "any.bin"
        file.write_bytes(content)
        made = split(file, folder / "pieces", By.SIZE, cuts_of(file, By.SIZE, size))
        assert b"".join((folder / "pieces" / piece.name).read_bytes() for piece in made.index.pieces) == content
        (folder / ".again.bin.part").write_bytes(content[:kept] + left)
        joined = join(folder / "pieces", folder / "again.bin")
        assert (folder / "again.bin").read_bytes() == content
        assert joined.written_bytes + joined.kept_bytes == len(content)
        whole = [piece for piece in made.index.pieces if piece.end <= kept]
        assert joined.kept_bytes >= sum(piece.digest.size for piece in whole)
