"""A manifest that came over a network is believed only when everything in it adds up."""

import pytest

from deltaic.v1 import content_pb2
from deltaic.weights import manifest as manifest_module
from deltaic.weights import model_file
from deltaic.weights.errors import BadManifest
from deltaic.weights.manifest import Manifest

KIND = content_pb2.Segment
MIB = 1024 * 1024


def proto(number: int, size: int) -> content_pb2.Digest:
    return content_pb2.Digest(sha256=bytes([number]) * 32, size=size)


def good() -> content_pb2.Manifest:
    """Three segments: a header of 100 bytes, a tensor of 5 MiB in two chunks, padding of 28 bytes."""
    segments = [
        KIND(kind=KIND.KIND_HEADER, name="GGUF", offset=0, length=100, chunks=[proto(1, 100)]),
        KIND(
            kind=KIND.KIND_TENSOR,
            name="w",
            ggml_type="I8",
            shape=[5 * MIB],
            offset=100,
            length=5 * MIB,
            chunks=[proto(2, 4 * MIB), proto(3, MIB)],
        ),
        KIND(kind=KIND.KIND_PADDING, offset=100 + 5 * MIB, length=28, chunks=[proto(4, 28)]),
    ]
    file = content_pb2.ModelFile(name="m.gguf", digest=proto(9, 128 + 5 * MIB), architecture="llama", segments=segments)
    return content_pb2.Manifest(format_version=1, files=[file])


def refusal(message: content_pb2.Manifest) -> str:
    with pytest.raises(BadManifest) as caught:
        Manifest.parse(message.SerializeToString())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_that_adds_up_is_read():
    manifest = Manifest.parse(good().SerializeToString())
    assert [(chunk.digest.sha256[0], chunk.offset) for chunk in manifest.chunks] == [
        (1, 0),
        (2, 100),
        (3, 100 + 4 * MIB),
        (4, 100 + 5 * MIB),
    ]
    assert manifest.size == 128 + 5 * MIB


def test_a_type_that_a_newer_center_knows_is_read():
    message = good()
    message.files[0].segments[1].ggml_type = "Q9_Z"
    assert Manifest.parse(message.SerializeToString()).file.segments[1].ggml_type == "Q9_Z"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a", b"\x12\x05ab", b"\x0b\x0c", b"\x80" * 20, bytes(50), b"GGUF" * 10])
def test_bytes_that_are_no_manifest_are_refused(data):
    with pytest.raises(BadManifest):
        Manifest.parse(data)


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_an_unknown_format_version_is_refused_with_the_way_out(version):
    message = good()
    message.format_version = version
    assert "update Deltaic" in refusal(message)


def test_nothing_is_not_a_manifest():
    with pytest.raises(BadManifest):
        Manifest.parse(b"")


def test_there_is_exactly_one_file():
    message = good()
    message.files.add().CopyFrom(message.files[0])
    assert "exactly one" in refusal(message)
    del message.files[:]
    assert "exactly one" in refusal(message)


def test_a_manifest_over_the_limit_is_refused_unread(monkeypatch):
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 10)
    assert "at most 10" in refusal(good())


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../m.gguf",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:m.gguf",
        "m.gguf\0",
        "m\n.gguf",
        "m\x1b[31m.gguf",
        "m\u202efugg.exe",
        ".hidden",
        "-rf",
        " m.gguf",
        "m.gguf.",
        "x" * 256,
        "é" * 128,
    ],
)
def test_a_file_name_is_plain(name):
    message = good()
    message.files[0].name = name
    refusal(message)


@pytest.mark.parametrize("name", ["m.gguf", "Modèle 7B (v2).gguf", "x" * 255, "模型.gguf"])
def test_plain_names_are_accepted(name):
    message = good()
    message.files[0].name = name
    assert Manifest.parse(message.SerializeToString()).file_name == name


@pytest.mark.parametrize("word", ["", "lla ma", "a/b", "x" * 65, "llama\n"])
def test_the_architecture_is_a_plain_word(word):
    message = good()
    message.files[0].architecture = word
    assert "architecture" in refusal(message)


LIES = []


def lie(change):
    """Register a change of the good manifest's file that makes it a lie."""
    LIES.append(change)
    return change


@lie
def no_segments(file):
    del file.segments[:]


@lie
def gap(file):
    file.segments[1].offset += 1


@lie
def overlap(file):
    file.segments[1].offset -= 1


@lie
def swap(file):
    first, second = content_pb2.Segment(), content_pb2.Segment()
    first.CopyFrom(file.segments[0])
    second.CopyFrom(file.segments[1])
    file.segments[0].CopyFrom(second)
    file.segments[1].CopyFrom(first)


@lie
def wraps_around(file):
    file.segments[1].offset = 2**64 - 1


@lie
def too_long(file):
    file.digest.size += 1


@lie
def too_short(file):
    file.digest.size -= 1


@lie
def huge(file):
    file.digest.size = 2**64 - 1


@lie
def empty_file(file):
    file.digest.size = 0


@lie
def chunks_say_less(file):
    file.segments[1].chunks[1].size -= 1


@lie
def no_chunks(file):
    del file.segments[1].chunks[:]


@lie
def big_chunk(file):
    file.segments[1].chunks[0].size += 1
    file.segments[1].chunks[1].size -= 1


@lie
def empty_chunk(file):
    file.segments[1].chunks.add(sha256=bytes(32), size=0)


@lie
def empty_segment(file):
    file.segments.insert(1, KIND(kind=KIND.KIND_PADDING, offset=100, length=0))


@lie
def empty_segment_with_a_name(file):
    file.segments.insert(1, KIND(kind=KIND.KIND_PADDING, name="x" * 100, offset=100, length=0))


@lie
def name_of_more_than_64_kib(file):
    file.segments[1].name = "x" * 65_536


@lie
def short_digest(file):
    file.segments[1].chunks[0].sha256 = bytes(31)


@lie
def short_file_digest(file):
    file.digest.sha256 = b""


@lie
def no_kind(file):
    file.segments[2].kind = KIND.KIND_UNSPECIFIED


@lie
def unknown_kind(file):
    file.segments[2].kind = 77


@lie
def header_after_tensor(file):
    file.segments[2].kind = KIND.KIND_HEADER
    file.segments[2].name = "late"


@lie
def no_header(file):
    file.segments[0].kind = KIND.KIND_PADDING


@lie
def tensor_without_type(file):
    file.segments[1].ggml_type = ""


@lie
def tensor_without_shape(file):
    del file.segments[1].shape[:]


@lie
def shape_of_five(file):
    file.segments[1].shape[:] = [1, 1, 1, 1, 1]


@lie
def shape_of_thousands(file):
    file.segments[1].shape[:] = [1] * 5000


@lie
def shape_with_zero(file):
    file.segments[1].shape[:] = [4, 0]


@lie
def shape_overflows(file):
    file.segments[1].shape[:] = [2**32, 2**32]


@lie
def typed_padding(file):
    file.segments[2].ggml_type = "F32"


@lie
def shaped_header(file):
    file.segments[0].shape[:] = [1]


@lie
def nameless_tensor(file):
    file.segments[1].name = ""


@lie
def unprintable_name(file):
    file.segments[1].name = "w\x1b[2J"


@lie
def two_sizes(file):
    file.segments[2].chunks[0].sha256 = bytes([1]) * 32


@lie
def same_tensor_twice(file):
    size = file.digest.size
    again = file.segments.add()
    again.CopyFrom(file.segments[1])
    again.offset = size
    file.digest.size = size + again.length


@pytest.mark.parametrize("change", LIES, ids=lambda change: change.__name__.replace("_", " "))
def test_a_lie_is_refused(change):
    message = good()
    change(message.files[0])
    refusal(message)


def test_a_file_over_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(model_file, "MAX_FILE_BYTES", 5 * MIB)
    assert "are possible" in refusal(good())


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@pytest.mark.parametrize("hollow", [b"\x22\x00", b"\x22\x2a\x3a\x00" + b"\x3a\x00" * 20], ids=["segments", "chunks"])
def test_millions_of_hollow_parts_are_refused_before_they_are_parsed(hollow, monkeypatch):
    monkeypatch.setattr(content_pb2.Manifest, "FromString", lambda data: pytest.fail("it was parsed"))
    inner = hollow * 1_000_000
    with pytest.raises(BadManifest, match="without"):
        Manifest.parse(b"\x08\x01\x12" + varint(len(inner)) + inner)


def test_millions_of_hollow_files_are_refused_before_they_are_parsed(monkeypatch):
    monkeypatch.setattr(content_pb2.Manifest, "FromString", lambda data: pytest.fail("it was parsed"))
    with pytest.raises(BadManifest, match="several files"):
        Manifest.parse(b"\x12\x00" * 1_000_000)
