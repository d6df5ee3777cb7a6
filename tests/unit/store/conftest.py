"""A small model of about twenty chunks, as bytes and as manifest, and a way to fill a folder with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from deltaic.store.model_files import ModelFiles
from deltaic.store.staging import Staging
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Chunk, Manifest


@dataclass(frozen=True)
class Model:
    manifest: Manifest
    content: bytes

    @property
    def hex(self) -> str:
        return self.manifest.digest.hex

    def bytes_of(self, digest: Digest) -> bytes:
        start = self.manifest.unique[digest][0]
        return self.content[start : start + digest.size]

    @property
    def to_write(self) -> list[Digest]:
        """What a new file lacks: all chunks but the padding of zeros, which a hole in the file already is."""
        return [digest for digest in self.manifest.unique if any(self.bytes_of(digest))]

    @property
    def largest(self) -> Chunk:
        return max(self.manifest.chunks, key=lambda chunk: chunk.digest.size)

    def write_missing(self, staging: Staging) -> None:
        for chunk in staging.missing:
            staging.write(chunk, self.bytes_of(chunk.digest))

    def commit_into(self, files: ModelFiles) -> Path:
        with files.stage(self.manifest) as staging:
            self.write_missing(staging)
            return staging.commit()


MakeModel = Callable[..., Model]


@pytest.fixture(scope="session")
def make_model(tiny_gguf) -> MakeModel:
    @cache
    def make(**arguments) -> Model:
        path = tiny_gguf(**arguments)
        return Model(Manifest.build(path), path.read_bytes())

    return make


@pytest.fixture(scope="session")
def model(make_model) -> Model:
    return make_model(ballast=200_000)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path / "models")
