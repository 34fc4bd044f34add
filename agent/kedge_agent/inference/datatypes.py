# SPDX-License-Identifier: Apache-2.0
"""Datatypes of the Open Inference Protocol as NumPy holds them.

Fixed-size types are little-endian. BYTES is an object array whose elements are `bytes`.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}

_NAMES: Final[Mapping[np.dtype[Any], str]] = {
    dtype: name for name, dtype in DTYPES.items()
}


def datatype_of(array: np.ndarray) -> str | None:
    """Name the protocol's datatype of `array`, or None where it has none."""
    return _NAMES.get(array.dtype)
