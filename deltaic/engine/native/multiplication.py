"""A multiplication of matrices by a CPU backend, compared with the same in plain Python.

Weights of every kind of format that models come in are multiplied from every kind of buffer that llama.cpp would put
them into: the plain one, the one that repacks for wide registers, the one of AMX. So every kernel family runs once.
"""

import ctypes
import math
import random
from collections.abc import Iterator
from typing import Any

from deltaic.engine.native.ggml import Ggml

_TYPES = {"F32": (0, 0.01), "F16": (1, 0.01), "BF16": (30, 0.02), "Q8_0": (8, 0.03), "Q6_K": (14, 0.06)}
_TYPES |= {"Q5_K": (13, 0.10), "Q4_K": (12, 0.15), "Q4_1": (3, 0.15), "Q4_0": (2, 0.15), "IQ4_NL": (20, 0.15)}
"""Number of the type in ggml, and the relative error that rounding may cause; a wrong kernel is off by 1 and more."""
_DEPTH, _ROWS = 256, 64
_COLUMNS = (1, 33)  # decoding one token, and reading a prompt, take different kernels
_ARENA = 1 << 20
_SUCCESS = 0


class WrongResult(Exception):
    """The code ran, and what it computed is not the product."""


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Multiplication:
    """Multiplies on the CPU backend that is registered in this process."""

    def __init__(self, ggml: Ggml, entry: int) -> None:
        self._ggml, self._entry, self._library = ggml, entry, ggml.library
        self._declare()
        self._device: int = self._library.ggml_backend_reg_dev_get(entry, 0)
        self._backend: int = self._library.ggml_backend_dev_init(self._device, None)
        self._one_thread()
        source = random.Random(1)  # noqa: S311  # numbers to multiply, no secret
        self._weights = [[source.gauss(0, 1) for _ in range(_DEPTH)] for _ in range(_ROWS)]
        self._inputs = [[source.gauss(0, 1) for _ in range(_DEPTH)] for _ in range(max(_COLUMNS))]
        self._product = [
            [math.fsum(map(float.__mul__, row, column)) for row in self._weights] for column in self._inputs
        ]

    def check(self) -> tuple[str, ...]:
        """The names of the buffers whose kernels computed rightly. Raises WrongResult."""
        return tuple(name for name, buffer_type in self._buffer_types() if self._check_buffer(name, buffer_type))

    def _check_buffer(self, name: str, buffer_type: int) -> bool:
        ran = False
        for type_name, (number, tolerance) in _TYPES.items():
            for columns in _COLUMNS:
                result = self._multiply(buffer_type, number, columns)
                if result is None:
                    continue
                ran = True
                expected = [value for column in self._product[:columns] for value in column]
                error = _relative_error(result, expected)
                if not error <= tolerance:  # not a number is wrong too
                    raise WrongResult(f"{type_name} in {name} is off by {error:.0%}")
        return ran

    def _multiply(self, buffer_type: int, number: int, columns: int) -> list[float] | None:
        """The product, column by column; None when this kind of buffer does not serve this type."""
        library = self._library
        arenas = [library.ggml_init(_InitParams(_ARENA, None, True)) for _ in range(2)]
        buffers: list[int] = []
        try:
            weight = library.ggml_new_tensor_2d(arenas[0], number, _DEPTH, _ROWS)
            buffers.append(library.ggml_backend_alloc_ctx_tensors_from_buft(arenas[0], buffer_type))
            inputs = library.ggml_new_tensor_2d(arenas[1], 0, _DEPTH, columns)
            product = library.ggml_mul_mat(arenas[1], weight, inputs)
            if not library.ggml_backend_dev_supports_op(self._device, product):
                return None
            plain = library.ggml_backend_dev_buffer_type(self._device)
            buffers.append(library.ggml_backend_alloc_ctx_tensors_from_buft(arenas[1], plain))
            self._set(weight, self._quantised(number))
            self._set(inputs, _floats([value for column in self._inputs[:columns] for value in column]))
            graph = library.ggml_new_graph(arenas[1])
            library.ggml_build_forward_expand(graph, product)
            if library.ggml_backend_graph_compute(self._backend, graph) != _SUCCESS:
                raise WrongResult("the multiplication was refused")
            result = (ctypes.c_float * (_ROWS * columns))()
            library.ggml_backend_tensor_get(product, result, 0, ctypes.sizeof(result))
            return list(result)
        finally:
            for buffer in buffers:
                library.ggml_backend_buffer_free(buffer)
            for arena in arenas:
                library.ggml_free(arena)

    def _quantised(self, number: int) -> Any:
        values = _floats([value for row in self._weights for value in row])
        raw = ctypes.create_string_buffer(self._library.ggml_row_size(number, _DEPTH) * _ROWS)
        self._library.ggml_quantize_chunk(number, values, raw, 0, _ROWS, _DEPTH, None)
        return raw

    def _set(self, tensor: int, raw: Any) -> None:
        self._library.ggml_backend_tensor_set(tensor, raw, 0, self._library.ggml_nbytes(tensor))

    def _buffer_types(self) -> Iterator[tuple[str, int]]:
        """The plain buffer, and the special ones that llama.cpp prefers for weights."""
        plain = self._library.ggml_backend_dev_buffer_type(self._device)
        yield self._buffer_name(plain), plain
        address = self._ggml.address(self._entry, "ggml_backend_dev_get_extra_bufts")
        if not address:
            return
        listed = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(self._device)
        index = 0
        while listed and (buffer_type := listed[index]):
            yield self._buffer_name(buffer_type), buffer_type
            index += 1

    def _buffer_name(self, buffer_type: int) -> str:
        name: bytes = self._library.ggml_backend_buft_name(buffer_type)
        return name.decode("ascii", "replace")

    def _one_thread(self) -> None:
        address = self._ggml.address(self._entry, "ggml_backend_set_n_threads")
        if address:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(address)(self._backend, 1)

    def _declare(self) -> None:
        pointer, size, number, long = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
        for name, result, *arguments in (
            ("ggml_init", pointer, _InitParams),
            ("ggml_free", None, pointer),
            ("ggml_nbytes", size, pointer),
            ("ggml_row_size", size, number, long),
            ("ggml_new_tensor_2d", pointer, pointer, number, long, long),
            ("ggml_mul_mat", pointer, pointer, pointer, pointer),
            ("ggml_new_graph", pointer, pointer),
            ("ggml_build_forward_expand", None, pointer, pointer),
            ("ggml_quantize_chunk", size, number, pointer, pointer, long, long, long, pointer),
            ("ggml_backend_reg_dev_get", pointer, pointer, size),
            ("ggml_backend_dev_init", pointer, pointer, ctypes.c_char_p),
            ("ggml_backend_dev_buffer_type", pointer, pointer),
            ("ggml_backend_dev_supports_op", ctypes.c_bool, pointer, pointer),
            ("ggml_backend_buft_name", ctypes.c_char_p, pointer),
            ("ggml_backend_alloc_ctx_tensors_from_buft", pointer, pointer, pointer),
            ("ggml_backend_buffer_free", None, pointer),
            ("ggml_backend_tensor_set", None, pointer, pointer, size, size),
            ("ggml_backend_tensor_get", None, pointer, pointer, size, size),
            ("ggml_backend_graph_compute", number, pointer, pointer),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments


def _floats(values: list[float]) -> Any:
    return (ctypes.c_float * len(values))(*values)


def _relative_error(result: list[float], expected: list[float]) -> float:
    """Root of the summed squares of the differences, over that of what is expected."""
    difference = math.fsum((one - other) ** 2 for one, other in zip(result, expected, strict=True))
    return math.sqrt(difference / math.fsum(value * value for value in expected))
