"""A manifest describes a file down to its chunks, always in the same bytes."""

import hashlib
import os

import pytest

from deltaic.weights import manifest_build
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadLayout, BadManifest, NotGGUF, Truncated
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest


def test_it_describes_every_byte_of_the_file(tiny_gguf):
    path = tiny_gguf(ballast=9_000_000)
    manifest = Manifest.build(path)
    raw = path.read_bytes()
    assert b"".join(raw[chunk.offset : chunk.end] for chunk in manifest.chunks) == raw
    assert all(chunk.digest == Digest.of(raw[chunk.offset : chunk.end]) for chunk in manifest.chunks)
    assert manifest.file_digest == Digest(hashlib.sha256(raw).digest(), len(raw))
    assert manifest.size == len(raw)
    assert manifest.file_name == "tiny.gguf"
    assert manifest.file.architecture == "llama"


def test_its_revision_is_the_hash_of_its_exact_bytes(tiny_gguf):
    manifest = Manifest.build(tiny_gguf())
    assert manifest.revision == f"sha256:{hashlib.sha256(manifest.data).hexdigest()}"
    assert manifest.digest == Digest.of(manifest.data)


def test_parsing_its_bytes_gives_it_back(tiny_gguf):
    manifest = Manifest.build(tiny_gguf())
    again = Manifest.parse(manifest.data)
    assert again == manifest
    assert hash(again) == hash(manifest)
    assert (again.file, again.chunks, again.unique) == (manifest.file, manifest.chunks, manifest.unique)


def test_the_same_file_gives_the_same_bytes_and_another_name_another_revision(tiny_gguf):
    first = Manifest.build(tiny_gguf())
    assert Manifest.build(tiny_gguf()).data == first.data
    renamed = Manifest.build(tiny_gguf("renamed.gguf"))
    assert renamed.revision != first.revision
    assert renamed.chunks == first.chunks


def test_it_grows_from_any_buffer_but_keeps_bytes(tiny_gguf):
    manifest = Manifest.build(tiny_gguf())
    assert type(Manifest.parse(bytearray(manifest.data)).data) is bytes


def test_a_chunk_that_appears_twice_is_listed_twice_and_unique_once(tmp_path, tiny_gguf):
    path = tiny_gguf(folder=tmp_path)
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 3 * 4 * 1024 * 1024)
    manifest = Manifest.build(path)
    zeros = Digest.of(bytes(4 * 1024 * 1024))
    places = [chunk.offset for chunk in manifest.chunks if chunk.digest == zeros]
    assert len(places) == 3
    assert manifest.unique[zeros] == tuple(places)


def test_only_the_changed_tensor_has_new_chunks(tiny_gguf):
    old = Manifest.build(tiny_gguf(ballast=5_000_000))
    new = Manifest.build(tiny_gguf(ballast=5_000_000, changed=["blk.0.attn_q.weight"]))
    differing = [segment.name for segment in new.file.segments if not set(segment.chunks) <= set(old.unique)]
    assert differing == ["blk.0.attn_q.weight"]


def test_a_changed_chat_template_has_one_new_chunk_beside_padding(tiny_gguf):
    old, new = Manifest.build(tiny_gguf()), Manifest.build(tiny_gguf(chat_template="{{ messages }} and more"))
    differing = [segment for segment in new.file.segments if not set(segment.chunks) <= set(old.unique)]
    assert [one.name for one in differing if one.kind is not SegmentKind.PADDING] == ["tokenizer.chat_template"]


def test_progress_never_decreases_and_ends_at_the_size(tiny_gguf):
    seen: list[int] = []
    manifest = Manifest.build(tiny_gguf(ballast=9_000_000), on_progress=seen.append)
    assert len(seen) == len(manifest.chunks)
    assert seen == sorted(seen)
    assert seen[-1] == manifest.size


def test_it_reads_no_more_than_one_chunk_at_a_time(tiny_gguf):
    import tracemalloc

    path = tiny_gguf(ballast=40_000_000)
    Manifest.build(path)
    tracemalloc.start()
    Manifest.build(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 1024 * 1024


def test_a_file_that_is_not_a_model_is_refused(tmp_path, tiny_gguf):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(NotGGUF):
        Manifest.build(path)
    path.write_bytes(tiny_gguf().read_bytes()[:-1])
    with pytest.raises(Truncated):
        Manifest.build(path)
    with pytest.raises(FileNotFoundError):
        Manifest.build(tmp_path / "absent.gguf")


@pytest.mark.parametrize("name", [".hidden.gguf", "-option.gguf", "two\nlines.gguf", "trailing.", "what?.gguf"])
def test_a_file_with_a_name_that_is_not_plain_is_refused(tiny_gguf, name):
    with pytest.raises(BadManifest, match="rename the file"):
        Manifest.build(tiny_gguf(name))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, tiny_gguf):
    path = tiny_gguf(folder=tmp_path)

    def touch(done: int) -> None:
        os.utime(path, ns=(done, done))

    with pytest.raises(BadLayout, match="changed while it was read"):
        Manifest.build(path, on_progress=touch)


def test_a_file_that_is_replaced_while_it_is_read_is_refused(tmp_path, tiny_gguf):
    path = tiny_gguf(folder=tmp_path)
    other = tiny_gguf("other.gguf", folder=tmp_path)

    def replace(done: int) -> None:
        if other.exists():
            other.rename(path)

    with pytest.raises(BadLayout, match="changed while it was read"):
        Manifest.build(path, on_progress=replace)


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path, tiny_gguf, monkeypatch):
    path = tiny_gguf(folder=tmp_path)
    read_layout = manifest_build.read_layout

    def read_then_cut(target):
        layout = read_layout(target)
        os.truncate(target, layout.size // 2)
        return layout

    monkeypatch.setattr(manifest_build, "read_layout", read_then_cut)
    with pytest.raises(Truncated, match="shorter"):
        Manifest.build(path)
