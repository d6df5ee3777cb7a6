"""What tensors stand for: elements as numbers, from any type whose levels are evenly spaced.

Numbers are binary64, in units of 2^-24, in which every half-precision scale is an integer. Each is made by single
operations, which IEEE 754 rounds in one way only, so every machine computes the same.
"""

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.floats import FLOATS
from deltaic.weights.delta.predict import Scales
from deltaic.weights.delta.quants import LAYOUTS
from deltaic.weights.digest import Buffer

Values = npt.NDArray[np.float64]

UNIT = 2.0**24


def has_values(ggml_type: str) -> bool:
    """Whether elements of this type can be read here."""
    return ggml_type in FLOATS or (ggml_type in LAYOUTS and LAYOUTS[ggml_type].linear)


def read_values(ggml_type: str, data: Buffer) -> Values:
    """The elements of whole blocks, flat, in file order."""
    if ggml_type in FLOATS:
        return _floats(ggml_type, data) * UNIT
    layout = LAYOUTS[ggml_type]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, layout.block_bytes)
    levels = layout.levels.unpack(np.ascontiguousarray(blocks.T))
    centred = (levels.view(np.int8) if layout.signed else levels).astype(np.float64) - layout.zero
    scales = Scales.of(layout, blocks)
    shaped = centred.reshape(-1, layout.sub_elements, len(blocks))
    shaped *= scales.scale.astype(np.float64)[:, None, :]
    shaped -= scales.minimum.astype(np.float64)[:, None, :]
    return np.ascontiguousarray(shaped.reshape(layout.elements, -1).T).reshape(-1)


def write_floats(ggml_type: str, values: Values) -> bytes:
    """Numbers rounded to a floating-point type, ties to even."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = (values / UNIT).astype(np.float32)
        if ggml_type == "F32":
            return single.tobytes()
        if ggml_type == "F16":
            return single.astype(np.float16).tobytes()
    bits = single.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
    return rounded.astype(np.uint16).tobytes()


def _floats(ggml_type: str, data: Buffer) -> Values:
    raw = np.frombuffer(data, FLOATS[ggml_type].dtype)
    if ggml_type == "F32":
        found = raw.view(np.float32)
    elif ggml_type == "F16":
        found = raw.view(np.float16)
    else:
        found = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.nan_to_num(found.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
