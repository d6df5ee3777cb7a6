"""The promises of the manifest, on the real model: small changes move small bytes, and hashing is one bounded pass."""

import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest

pytestmark = pytest.mark.model

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + "{# in branch style #}" * 100


@pytest.fixture(scope="module")
def demo(demo_model_path) -> Manifest:
    return Manifest.build(demo_model_path)


def new_segments(old: Manifest, new: Manifest):
    """The segments of `new` that need chunks which `old` does not hold."""
    return [segment for segment in new.file.segments if not set(segment.chunks) <= set(old.unique)]


def new_bytes(old: Manifest, new: Manifest) -> int:
    return sum(digest.size for digest in new.unique if digest not in old.unique)


def copy_in_place_order(source: Path, target: Path, template: str) -> None:
    """Copy a GGUF file with another chat template and every key where it was."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = template if field.name == "tokenizer.chat_template" else field.contents()
        items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], items)
    for tensor in reader.tensors:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def test_it_covers_the_whole_model(demo, demo_model_path):
    assert demo.size == demo_model_path.stat().st_size
    assert demo.chunks[-1].end == demo.size
    assert demo.file.architecture == "llama"
    assert sum(one.kind is SegmentKind.TENSOR for one in demo.file.segments) == 272


def test_a_new_template_in_its_old_place_moves_one_chunk_and_the_padding(demo, demo_model_path, tmp_path):
    copy = tmp_path / demo_model_path.name
    copy_in_place_order(demo_model_path, copy, TEMPLATE)
    changed = Manifest.build(copy)
    named = [one.name for one in new_segments(demo, changed) if one.kind is not SegmentKind.PADDING]
    assert named == ["tokenizer.chat_template"]
    assert new_bytes(demo, changed) < len(TEMPLATE.encode()) + 100


def test_a_new_template_by_the_gguf_script_moves_less_than_64_kib(demo, demo_model_path, tmp_path):
    copy = tmp_path / demo_model_path.name
    script = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--chat-template", TEMPLATE]
    subprocess.run([*script, demo_model_path, copy], check=True, capture_output=True, timeout=100)
    changed = Manifest.build(copy)
    assert all(one.kind is not SegmentKind.TENSOR for one in new_segments(demo, changed))
    assert 0 < new_bytes(demo, changed) < 64 * 1024


def test_it_is_built_in_little_memory(demo_model_path):
    """In a process of its own, because peak memory never goes down: at most 32 MiB above the imports."""
    program = (
        "import resource, sys, pathlib, deltaic.weights.manifest_build\n"
        "from deltaic.weights.manifest import Manifest\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "Manifest.build(pathlib.Path(sys.argv[1]))\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, demo_model_path], check=True, capture_output=True, text=True, timeout=100
    )
    assert int(done.stdout) < 32 * 1024
