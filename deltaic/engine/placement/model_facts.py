"""What a GGUF file says that decides how much memory a model takes."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from deltaic.weights.gguf_values import Numbers, read_numbers
from deltaic.weights.gguf_vet import Survey, survey

_BLOCK = re.compile(r"blk\.(\d{1,5})\.")
_KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "expert_feed_forward_length"),
    *("expert_used_count", "attention.head_count", "attention.head_count_kv", "attention.key_length"),
    *("attention.value_length", "attention.key_length_mla", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size"),
    *("ssm.group_count", "wkv.head_size"),
)
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Block:
    """One layer: bytes of its tensors, and elements of keys and of values that it keeps for each token."""

    bytes: int
    keys: int
    values: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Sizes of a model. Bytes where it says so, elements elsewhere.

    `output_bytes` counts the token embeddings once more where the model uses them for its output too. `state_bytes` is
    what a recurrent layer keeps for each sequence, however long. `head` holds the sizes of one head's keys and values.
    """

    blocks: tuple[Block, ...]
    input_bytes: int
    output_bytes: int
    state_bytes: int
    vocabulary: int
    embedding: int
    feed_forward: int
    heads: int
    head: tuple[int, int]
    trained_context: int

    @property
    def layers(self) -> int:
        """What may go to a GPU: every block, and the output as one more. llama.cpp counts so."""
        return len(self.blocks) + 1


def read_facts(path: Path) -> ModelFacts:
    """Vet the file and read its sizes. Raises NotGGUF, Truncated, BadLayout, OSError."""
    with path.open("rb") as file:
        vetted = survey(file, path.stat().st_size)
    prefix = f"{vetted.architecture}."
    found = read_numbers(path, vetted, {prefix + key for key in _KEYS})
    return _facts(vetted, {name.removeprefix(prefix): value for name, value in found.items()})


def _facts(vetted: Survey, numbers: dict[str, Numbers]) -> ModelFacts:
    tensors = _tensor_bytes(vetted)
    count = max((index for index in tensors if isinstance(index, int)), default=-1) + 1
    embedding = _first(numbers, "embedding_length", 0)
    heads = [_of_block(numbers, "attention.head_count", index) for index in range(count)]
    most_heads = max(heads, default=0)
    plain = embedding // most_heads if most_heads else 0
    head = (_first(numbers, "attention.key_length", plain), _first(numbers, "attention.value_length", plain))
    compressed = "attention.key_length_mla" in numbers  # values are read back from the keys
    blocks = []
    for index in range(count):
        shared = _of_block(numbers, "attention.head_count_kv", index, heads[index])
        blocks.append(Block(tensors[index], shared * head[0], 0 if compressed else shared * head[1]))
    return ModelFacts(
        blocks=tuple(blocks),
        input_bytes=tensors["input"],
        output_bytes=tensors["output"],
        state_bytes=_state(numbers, embedding) * _FLOAT_BYTES,
        vocabulary=_vocabulary(vetted),
        embedding=embedding,
        feed_forward=_feed_forward(numbers),
        heads=most_heads,
        head=head,
        trained_context=_first(numbers, "context_length", 0),
    )


def _tensor_bytes(vetted: Survey) -> "Counter[int | str]":
    """Bytes by block, of the output, and of the rest, which llama.cpp leaves in the host's memory."""
    sizes: Counter[int | str] = Counter()
    for tensor in vetted.tensors:
        block = _BLOCK.match(tensor.name)
        sizes[int(block[1]) if block else "output" if tensor.name.startswith("output") else "input"] += tensor.length
    by_name = {tensor.name: tensor.length for tensor in vetted.tensors}
    if "output.weight" not in by_name:
        sizes["output"] += by_name.get("token_embd.weight", 0)
    return sizes


def _vocabulary(vetted: Survey) -> int:
    """Tokens of the vocabulary: rows of the embeddings."""
    return max(
        (tensor.shape[-1] for tensor in vetted.tensors if tensor.name in ("token_embd.weight", "output.weight")),
        default=0,
    )


def _feed_forward(numbers: dict[str, Numbers]) -> int:
    """The widest inner layer; of a mixture of experts, all that one token uses."""
    experts = _first(numbers, "expert_used_count", 0) * _first(numbers, "expert_feed_forward_length", 0)
    return max(_first(numbers, "feed_forward_length", 0), experts)


def _state(numbers: dict[str, Numbers], embedding: int) -> int:
    """Elements that a recurrent layer keeps for a sequence (llama.cpp: n_embd_r and n_embd_s)."""
    if width := _first(numbers, "wkv.head_size", 0):
        return embedding * (width + 2)
    inner, size = _first(numbers, "ssm.inner_size", 0), _first(numbers, "ssm.state_size", 0)
    convolved = inner + 2 * _first(numbers, "ssm.group_count", 0) * size
    return max(_first(numbers, "ssm.conv_kernel", 0) - 1, 0) * convolved + size * inner


def _first(numbers: dict[str, Numbers], key: str, default: int) -> int:
    """A number; of an array, which some models have for their layers, the largest."""
    value = numbers.get(key, default)
    return max(int(max(value, default=default)) if isinstance(value, tuple) else int(value), 0)


def _of_block(numbers: dict[str, Numbers], key: str, index: int, default: int = 0) -> int:
    value = numbers.get(key, default)
    if isinstance(value, tuple):
        return max(int(value[index]), 0) if index < len(value) else default
    return max(int(value), 0)
