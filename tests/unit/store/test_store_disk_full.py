"""A real disk that refuses to grow: the kernel's file size limit, in a process of its own, as a full disk would."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, os, resource, sys
from pathlib import Path
from deltaic.store.addresses import open_chunk_store
from deltaic.store.errors import DiskFull
from deltaic.store.model_files import ModelFiles
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

folder, model = Path(sys.argv[1]), Path(sys.argv[2])
manifest, content = Manifest.build(model), model.read_bytes()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

async def chunks():
    store = open_chunk_store(str(folder / "chunks"))
    large, small = os.urandom(100_000), os.urandom(1000)
    limit(50_000)
    try:
        await store.put(Digest.of(large), large)
    except DiskFull as error:
        print(error)
    await store.put(Digest.of(small), small)
    files = [path for path in (folder / "chunks").rglob("*") if path.is_file()]
    assert [path.name for path in files] == [Digest.of(small).hex], files
    limit(hard)
    await store.put(Digest.of(large), large)
    assert await store.read(Digest.of(large)) == large

def models():
    files = ModelFiles(folder / "models")
    limit(50_000)
    try:
        files.stage(manifest)
    except DiskFull as error:
        print(error)
    assert ModelFiles(folder / "models").revisions() == []
    limit(hard)
    with files.stage(manifest) as staging:
        for chunk in staging.missing:
            staging.write(chunk, content[chunk.offset : chunk.end])
        assert staging.commit().read_bytes() == content

asyncio.run(chunks())
models()
"""


def test_a_full_disk_is_one_clear_line_and_nothing_half_written(tmp_path: Path, tiny_gguf):
    model = tiny_gguf(ballast=100_000)
    command = [sys.executable, "-c", PROGRAM, tmp_path, model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    of_chunks, of_models = done.stdout.splitlines()
    assert of_chunks.startswith(f"no room in {tmp_path}/chunks: 100,000 more bytes are needed; free space there")
    assert of_models.startswith(f"no room in {tmp_path}/models: {model.stat().st_size:,} more bytes are needed; free")
