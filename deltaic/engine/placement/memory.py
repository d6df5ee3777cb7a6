"""How much memory a model takes with given settings. Bytes everywhere."""

from dataclasses import dataclass
from pathlib import Path

from deltaic.engine.placement.model_facts import Block, ModelFacts, read_facts
from deltaic.engine.settings import EngineSettings
from deltaic.weights.errors import BadLayout, NotGGUF, Truncated

_CELL_STEP = 256  # llama.cpp rounds the tokens of a sequence up to this
_BLOCK_ELEMENTS, _BLOCK_BYTES = 32, {"f16": 64, "q8_0": 34, "q4_0": 18}
_FLOAT_BYTES = 4
_PROCESS_BYTES = 96 << 20  # Python, gRPC, llama.cpp
_SMALL = 4 << 20  # graphs, tables, the batch


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Tensors, keys and values of all slots, and what one step needs while it runs."""

    weights: int
    kv: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute


def estimate(path: Path, settings: EngineSettings) -> MemoryNeed:
    """What a worker takes in all, wherever it is put. Raises NotGGUF, Truncated, BadLayout, OSError.

    An upper bound, beside the process itself: windows of sliding attention are counted at their full length, and
    embeddings twice where the model uses them for its output too. Weights are mapped from the file, so the kernel may
    drop pages of them when memory is short; what llama.cpp repacks for the processor it cannot.
    """
    facts = read_facts(path)
    weights = facts.input_bytes + facts.output_bytes + sum(block.bytes for block in facts.blocks)
    kv = sum(kv_bytes(block, facts, settings) for block in facts.blocks)
    return MemoryNeed(weights, kv, compute_bytes(facts, settings))


def cells(facts: ModelFacts, settings: EngineSettings) -> int:
    """Tokens whose keys and values one slot has room for."""
    tokens = min(settings.context_tokens, facts.trained_context or settings.context_tokens)
    return -(-tokens // _CELL_STEP) * _CELL_STEP


def kv_bytes(block: Block, facts: ModelFacts, settings: EngineSettings) -> int:
    """Keys, values and recurrent state that one layer keeps for all slots."""
    row = _row_bytes(block.keys, settings.kv_type_k) + _row_bytes(block.values, settings.kv_type_v)
    return settings.slots * (row * cells(facts, settings) + facts.state_bytes)


def _row_bytes(elements: int, kind: str) -> int:
    return -(-elements // _BLOCK_ELEMENTS) * _BLOCK_BYTES[kind]


def compute_bytes(facts: ModelFacts, settings: EngineSettings) -> int:
    """What a step of the largest batch needs, and the logits of all slots after it.

    llama.cpp reserves this before the first step and reuses memory from layer to layer, so the widest place counts: the
    logits of all slots, or one layer with its attention for a whole batch. Flash attention has no scores to keep; where
    it is left to llama.cpp, it is counted as absent.
    """
    flash = settings.flash_attention == "on" or settings.kv_type_v != "f16"
    attention = cells(facts, settings) * (2 if flash else 2 + 2 * facts.heads)
    layer = 6 * facts.embedding + 3 * facts.feed_forward + attention
    logits = settings.slots * facts.vocabulary
    return _FLOAT_BYTES * (max(settings.batch_tokens * layer, logits) + logits) + _SMALL


def worker_bytes(path: Path, settings: EngineSettings) -> int:
    """Memory of a whole worker process. A file that cannot be read counts with its size: loading it will fail.

    Raises OSError when it is not there.
    """
    size = path.stat().st_size
    try:
        need = estimate(path, settings)
        prefixes = need.kv if settings.prefix_bytes == "auto" else int(settings.prefix_bytes)
        return _PROCESS_BYTES + max(need.total, size) + prefixes
    except (NotGGUF, Truncated, BadLayout):
        return _PROCESS_BYTES + size
