"""Fixtures that every room of the tests may use: a tiny valid GGUF file of any content, and the real demo model."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

import gguf
import numpy as np
import pytest

DEMO_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT_TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"

TinyGguf = Callable[..., Path]

_Q = gguf.GGMLQuantizationType
# name, type, rows, bytes of a row; the last one ends on the alignment, so that every byte of the file is declared
_TENSORS = (
    ("token_embd.weight", _Q.Q8_0, 48, 2 * 34),
    ("blk.0.attn_norm.weight", _Q.F32, 1, 4 * 17),
    ("blk.0.attn_q.weight", _Q.Q4_1, 16, 2 * 20),
    ("blk.0.ffn_up.weight", _Q.F16, 8, 2 * 48),
    ("output_norm.weight", _Q.F32, 1, 4 * 64),
)


@pytest.fixture(autouse=True)
def _logs_stay_with_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is started inside the test process must not take over its logs for the tests that follow."""
    monkeypatch.setattr("deltaic.runtime.lifetime.configure_logs", lambda *_, **__: None)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> TinyGguf:
    """A factory of small valid GGUF files (about 10 kB), each in a folder of its own unless `folder` is given.

    The same arguments always give the same bytes. `chat_template` and `general_name` change one key; `seed` changes
    every tensor, `changed` (tensor names) only those; `ballast` adds a Q8_0 tensor of about that many bytes, for files
    of several chunks.
    """

    def make(
        name: str = "tiny.gguf",
        *,
        folder: Path | None = None,
        chat_template: str = CHAT_TEMPLATE,
        general_name: str = "Tiny",
        seed: int = 0,
        changed: Collection[str] = (),
        ballast: int = 0,
    ) -> Path:
        path = (folder or tmp_path_factory.mktemp("gguf")) / name
        writer = gguf.GGUFWriter(path, "llama")
        _add_keys(writer, general_name, chat_template)
        _add_tensors(writer, seed, changed, ballast)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def _add_keys(writer: gguf.GGUFWriter, general_name: str, chat_template: str) -> None:
    words = ["<unk>", "<s>", "</s>", *(f"▁word{number}" for number in range(97))]
    writer.add_name(general_name)
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template)
    writer.add_quantization_version(2)


def _add_tensors(writer: gguf.GGUFWriter, seed: int, changed: Collection[str], ballast: int) -> None:
    rows = -(-ballast // (2 * 34 * 16)) * 16
    tensors = (("ballast.weight", _Q.Q8_0, rows, 2 * 34), *_TENSORS) if ballast else _TENSORS
    for index, (name, kind, row_count, row_bytes) in enumerate(tensors):
        random = np.random.default_rng([seed, index, name in changed])
        raw = random.integers(0, 256, size=(row_count, row_bytes), dtype=np.uint8)
        if kind in {_Q.F32, _Q.F16}:
            dtype = np.float32 if kind == _Q.F32 else np.float16
            values = random.standard_normal((row_count, row_bytes // np.dtype(dtype).itemsize))
            writer.add_tensor(name, values.astype(dtype).squeeze())
        else:
            writer.add_tensor(name, raw, raw_dtype=kind)


@pytest.fixture(scope="session")
def fine_tunes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model of twelve tensors of a mebibyte, and three fine-tunes of it, each of the one before.

    A fine-tune learns sixteen kibibytes in a row of every tensor anew, so that no chunk of a tensor stays the same.
    """
    folder = tmp_path_factory.mktemp("fine-tunes")
    random = np.random.default_rng(7)
    tensors = [random.integers(0, 256, (15_360, 2 * 34), np.uint8) for _ in range(12)]
    paths = [_layered(folder / "0", tensors)]
    for version in range(1, 4):
        for tensor in tensors:
            start = int(random.integers(0, 15_000))
            tensor[start : start + 240] = random.integers(0, 256, (240, 2 * 34), np.uint8)
        paths.append(_layered(folder / str(version), tensors))
    return paths


def _layered(folder: Path, tensors: Collection[np.ndarray]) -> Path:
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_name("Layered")
    writer.add_block_count(len(tensors))
    for layer, tensor in enumerate(tensors):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", tensor, raw_dtype=_Q.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


@pytest.fixture(scope="session")
def demo_model_path() -> Path:
    """The demo model, put on disk by `make models`. A test that needs it fails without it, it is never skipped."""
    folder = Path(os.environ.get("DELTAIC_MODELS") or Path.home() / ".cache" / "deltaic" / "models")
    path = folder / DEMO_MODEL
    if not path.is_file():
        pytest.fail(f"no {DEMO_MODEL} in {folder}: run make models")
    return path
