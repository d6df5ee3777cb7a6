"""A manifest describes a file down to its chunks, always in the same bytes, and is believed only when it adds up."""

import hashlib

from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest


def test_it_describes_every_byte_of_the_file(tiny_gguf):
    path = tiny_gguf()
    manifest = Manifest.build(path)
    raw = path.read_bytes()
    assert b"".join(raw[chunk.offset : chunk.end] for chunk in manifest.chunks) == raw
    assert all(chunk.digest == Digest.of(raw[chunk.offset : chunk.end]) for chunk in manifest.chunks)
    assert manifest.file_digest == Digest(hashlib.sha256(raw).digest(), len(raw))
    assert manifest.file_name == "tiny.gguf"
    assert manifest.file.architecture == "llama"


def test_parsing_its_bytes_gives_it_back(tiny_gguf):
    manifest = Manifest.build(tiny_gguf(ballast=9_000_000))
    assert Manifest.parse(manifest.data) == manifest
    assert manifest.revision == f"sha256:{hashlib.sha256(manifest.data).hexdigest()}"
