"""What tensors stand for: elements as numbers, from any type whose levels are evenly spaced.

Numbers are binary64, in units of 2^-24, in which every half-precision scale is an integer. Each is made by single
operations, which IEEE 754 rounds in one way only, so every machine computes the same.
"""

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.float_types import FLOATS, read_floats, round_floats
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
        return read_floats(FLOATS[ggml_type], data) * UNIT
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
    return round_floats(FLOATS[ggml_type], values / UNIT)
