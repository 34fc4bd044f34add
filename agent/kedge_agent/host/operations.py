# SPDX-License-Identifier: Apache-2.0
"""Operations of `kedge:ai/tensors`: pure functions over NumPy arrays.

An array's dtype is its element type; `bytes` is an object array. Operands are never
changed, but a result may share their memory. What does not fit is refused with
`invalid-argument`.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kedge_agent.host.refusal import Refusal, invalid
from kedge_agent.inference.datatypes import DTYPES, datatype_of
from kedge_wire.world import DATATYPES

MAX_RANK: Final = 16
SORTED_AT_ONCE: Final = 65_536
"""Elements: rows up to so many are sorted whole, as many rows together as fit."""

_LENGTH: Final = struct.Struct("<I")
_FP32: Final = DTYPES["FP32"]
_ELEMENT_TYPES: Final = {datatype: name for name, datatype in DATATYPES.items()}
_NUMERIC: Final = frozenset("iuf")


def element_type(array: np.ndarray) -> str:
    """Name the element type as the WIT does."""
    datatype = datatype_of(array)
    if datatype is None:
        raise invalid(
            f"element type: expected one of the protocol's, found {array.dtype}"
        )
    return _ELEMENT_TYPES[datatype]


def from_bytes(shape: Sequence[int], element: str, data: bytes) -> np.ndarray:
    """Make an array of `shape` from little-endian, row-major bytes."""
    count = _count(shape)
    if element == "bytes":
        return _shaped(_split(data, count), shape)
    dtype = DTYPES[DATATYPES[element]]
    expected = count * dtype.itemsize
    if len(data) != expected:
        raise invalid(
            f"data: expected {expected} bytes for {element}{list(shape)}, "
            f"found {len(data)}"
        )
    return _shaped(np.frombuffer(data, dtype=dtype), shape)


def to_bytes(array: np.ndarray) -> bytes:
    """Copy the elements out, little-endian and row-major."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(_LENGTH.pack(len(item)) + item for item in array.flat)


def size_in_bytes(array: np.ndarray) -> int:
    """What the elements take, each byte string with its length."""
    if array.dtype != object:
        return array.nbytes
    return sum(_LENGTH.size + len(item) for item in array.flat)


def reshape(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    if _count(shape) != array.size:
        raise invalid(
            f"shape: expected {array.size} elements as in {list(array.shape)}, "
            f"found {list(shape)}"
        )
    return _shaped(array, shape)


def transpose(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    if sorted(axes) != list(range(array.ndim)):
        raise invalid(
            f"axes: expected a permutation of 0..{array.ndim}, found {list(axes)}"
        )
    return array.transpose(axes)


def affine(
    array: np.ndarray, scale: Sequence[float], bias: Sequence[float], axis: int
) -> np.ndarray:
    """Compute x · scale[c] + bias[c] as fp32, c being the index along `axis`."""
    _check_axis(array, axis)
    factor = _per_index(array, scale, axis, "scale")
    offset = _per_index(array, bias, axis, "bias")
    with np.errstate(all="ignore"):  # infinities and NaN are values like others here
        result: np.ndarray = _numeric(array).astype(_FP32) * factor
        result += offset
    return result


def softmax(array: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) over the sum of exp(x) along `axis`, as fp32."""
    _check_axis(array, axis)
    values = _numeric(array).astype(_FP32)
    if not values.size:
        return values
    with np.errstate(all="ignore"):
        values -= values.max(axis=axis, keepdims=True)  # or exp would overflow
        np.exp(values, out=values)
        values /= values.sum(axis=axis, keepdims=True)
    return values


def top_k(array: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` largest along the last dimension, largest first, and their indices.

    Of equal ones the lower index comes first; NaN comes last.
    """
    last = _last_size(array, k)
    rows = _numeric(array).reshape(-1, last)
    order = np.empty((len(rows), k), dtype=DTYPES["INT64"])
    step = max(1, SORTED_AT_ONCE // last)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        order[part] = _smallest(_reversed(rows[part]), k)
    values = np.take_along_axis(rows, order, axis=-1)
    shape = (*array.shape[:-1], k)
    with np.errstate(all="ignore"):
        return values.astype(_FP32).reshape(shape), order.reshape(shape)


def top_k_bytes(array: np.ndarray, k: int) -> int:
    """What `top_k` takes at its peak, beside its operand; its answers are in it."""
    last = _last_size(array, k)
    copied = 0 if array.flags.c_contiguous else array.nbytes
    sorting = min(array.size, max(last, SORTED_AT_ONCE)) * (2 * array.itemsize + 16)
    answers = array.size // last * k * (array.itemsize + 12)
    return copied + sorting + answers + k * 32


def _last_size(array: np.ndarray, k: int) -> int:
    last = array.shape[-1] if array.ndim else 0
    if not 0 < k <= last:
        raise invalid(f"k: expected 1 to {last}, found {k}")
    return last


def _reversed(array: np.ndarray) -> np.ndarray:
    """Keys that sort the other way; NaN stays last, no integer overflows."""
    result: np.ndarray = -array if array.dtype.kind == "f" else ~array
    return result


def _smallest(keys: np.ndarray, k: int) -> np.ndarray:
    """Indices of the `k` smallest of each row, in order, of equal ones the lower."""
    if keys.size <= SORTED_AT_ONCE:
        return np.argsort(keys, axis=-1, kind="stable")[:, :k]
    (row,) = keys  # a long row comes alone: sorting it whole would take it 16 times
    bound = np.partition(row, k - 1)[k - 1]
    if np.isnan(bound):
        less, equal = ~np.isnan(row), np.isnan(row)
    else:
        less, equal = row < bound, row == bound
    first = np.flatnonzero(less)
    first = first[np.argsort(row[first], kind="stable")]
    rest = np.flatnonzero(equal)[: k - len(first)]
    return np.concatenate([first, rest])[np.newaxis]


def _count(shape: Sequence[int]) -> int:
    if len(shape) > MAX_RANK:
        raise invalid(f"shape: expected at most {MAX_RANK} sizes, found {len(shape)}")
    return math.prod(shape)


def _shaped(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Give a shape of as many elements; no elements may still be too many bytes."""
    try:
        result: np.ndarray = array.reshape(shape)
    except ValueError as exc:
        raise invalid(f"shape: expected one that NumPy can hold ({exc})") from exc
    return result


def _split(data: bytes, count: int) -> np.ndarray:
    items: list[bytes] = []
    position = 0
    while position < len(data):
        if position + _LENGTH.size > len(data):
            raise _torn(position, len(data))
        (length,) = _LENGTH.unpack_from(data, position)
        start = position + _LENGTH.size
        position = start + length
        if position > len(data):
            raise _torn(start, len(data))
        items.append(data[start:position])
    if len(items) != count:
        raise invalid(f"data: expected {count} byte strings, found {len(items)}")
    array = np.empty(count, dtype=object)
    array[:] = items
    return array


def _torn(position: int, length: int) -> Refusal:
    return invalid(
        f"data: expected a whole byte string at {position}, found the end at {length}"
    )


def _numeric(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in _NUMERIC:
        raise invalid(f"tensor: expected numbers, found {element_type(array)}")
    return array


def _check_axis(array: np.ndarray, axis: int) -> None:
    if axis >= array.ndim:
        raise invalid(f"axis: expected below rank {array.ndim}, found {axis}")


def _per_index(
    array: np.ndarray, values: Sequence[float], axis: int, name: str
) -> np.ndarray[Any, np.dtype[np.float32]]:
    size = array.shape[axis]
    if len(values) not in (1, size):
        raise invalid(f"{name}: expected 1 or {size} values, found {len(values)}")
    shape = [1] * array.ndim
    shape[axis] = len(values)
    return np.asarray(values, dtype=np.float32).reshape(shape)
