# SPDX-License-Identifier: Apache-2.0
"""The tensors of one store: `kedge:ai/tensors`.

A table maps the number behind a handle to an array. It belongs to one store, is used on
that store's thread only, and goes with it: Wasmtime runs no destructors when a store is
dropped. Within a request, count and bytes are bounded; at its end everything left is
freed, and a handle that the component still holds means nothing from then on, because
numbers are never used twice: Wasmtime keeps 32 bits of them, so the table refuses when
they run out, and the instance is replaced long before.

Bytes are counted per tensor, though a reshaped one shares its memory with another: the
bound is on what a component can make us keep, not on what it happens to cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kedge_agent.host import operations
from kedge_agent.host.refusal import exhausted, invalid

MAX_COPIED_BYTES: Final = 1024 * 1024
"""What `create` and `read` move: each element of a list crosses as 32 bytes."""

MAX_NUMBER: Final = 2**32 - 1
WORN_OUT: Final = MAX_NUMBER // 2
"""From here on a request may still end; the next one gets a new instance."""

MAX_ABANDONED: Final = 65_536
"""Handles never dropped cost a few bytes each; above this the instance is replaced."""

_FP32_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLimits:
    """Bounds on the tensors of one request."""

    count: int = 1024
    total_bytes: int = 256 * 1024 * 1024


class TensorTable:
    """Numbers behind handles, and their arrays."""

    def __init__(self, limits: TensorLimits) -> None:
        self._limits: Final = limits
        self._arrays: dict[int, tuple[np.ndarray, int]] = {}
        self._bytes = 0
        self._last = 0
        self.abandoned = 0
        """Handles held when requests ended, so far: Wasmtime keeps a slot for each."""

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def worn_out(self) -> bool:
        """Whether the instance should be replaced before the next request."""
        return self.abandoned > MAX_ABANDONED or self._last > WORN_OUT

    def add(self, array: np.ndarray) -> int:
        """Keep an array, and answer its number.

        Raises:
            Refusal: The request's tensors are too many or too large.
        """
        size = operations.size_in_bytes(array)
        if len(self._arrays) >= self._limits.count:
            raise exhausted(f"tensors: expected at most {self._limits.count} at a time")
        self.check_room(size)
        if self._last >= MAX_NUMBER:
            raise exhausted("tensors: the numbers of this instance are used up")
        self._last += 1
        self._arrays[self._last] = (array, size)
        self._bytes += size
        return self._last

    def check_room(self, size: int) -> None:
        """Refuse what would not fit, before it is computed."""
        if self._bytes + size > self._limits.total_bytes:
            raise exhausted(
                f"tensors: expected at most {self._limits.total_bytes} bytes "
                f"at a time, found {self._bytes + size}"
            )

    def get(self, number: int) -> np.ndarray:
        """The array that a borrowed handle stands for."""
        return self._entry(number)[0]

    def take(self, number: int) -> np.ndarray:
        """The array that a handle given away stood for; its number is free."""
        array, size = self._entry(number)
        del self._arrays[number]
        self._bytes -= size
        return array

    def drop(self, number: int) -> None:
        """Free what a dropped handle stood for, unless the request is over."""
        _, size = self._arrays.pop(number, (None, 0))
        self._bytes -= size

    def clear(self) -> None:
        """Free everything: the request is over."""
        self.abandoned += len(self._arrays)
        self._arrays.clear()
        self._bytes = 0

    def _entry(self, number: int) -> tuple[np.ndarray, int]:
        entry = self._arrays.get(number)
        if entry is None:
            raise invalid("tensor: expected one of this request, found an older one")
        return entry


class Tensors:
    """The host functions over one table."""

    def __init__(self, table: TensorTable) -> None:
        self._table: Final = table

    def functions(self) -> Mapping[str, Any]:
        """Functions by their item name in the interface."""
        return {
            "[static]tensor.create": self._create,
            "[method]tensor.shape": self._shape,
            "[method]tensor.element-type": self._element_type,
            "[method]tensor.read": self._read,
            "[method]tensor.reshape": self._reshape,
            "[method]tensor.transpose": self._transpose,
            "[method]tensor.affine": self._affine,
            "[method]tensor.softmax": self._softmax,
            "[method]tensor.top-k": self._top_k,
        }

    def _create(self, shape: Sequence[int], element: str, data: bytes) -> int:
        if len(data) > MAX_COPIED_BYTES:
            raise _too_large(len(data))
        return self._table.add(operations.from_bytes(shape, element, data))

    def _shape(self, number: int) -> Sequence[int]:
        return self._table.get(number).shape

    def _element_type(self, number: int) -> str:
        return operations.element_type(self._table.get(number))

    def _read(self, number: int) -> bytes:
        array = self._table.get(number)
        size = operations.size_in_bytes(array)
        if size > MAX_COPIED_BYTES:
            raise _too_large(size)
        return operations.to_bytes(array)

    def _reshape(self, number: int, shape: Sequence[int]) -> int:
        return self._table.add(operations.reshape(self._table.get(number), shape))

    def _transpose(self, number: int, axes: Sequence[int]) -> int:
        return self._table.add(operations.transpose(self._table.get(number), axes))

    def _affine(
        self, number: int, scale: Sequence[float], bias: Sequence[float], axis: int
    ) -> int:
        array = self._operand(number, _FP32_BYTES)
        return self._table.add(operations.affine(array, scale, bias, axis))

    def _softmax(self, number: int, axis: int) -> int:
        array = self._operand(number, _FP32_BYTES)
        return self._table.add(operations.softmax(array, axis))

    def _top_k(self, number: int, k: int) -> tuple[int, int]:
        array = self._table.get(number)
        self._table.check_room(operations.top_k_bytes(array, k))
        values, indices = operations.top_k(array, k)
        return self._table.add(values), self._table.add(indices)

    def _operand(self, number: int, result_bytes: int) -> np.ndarray:
        """An array, if there is room for a result of so many bytes an element."""
        array = self._table.get(number)
        self._table.check_room(array.size * result_bytes)
        return array


def _too_large(size: int) -> Exception:
    return exhausted(f"data: expected at most {MAX_COPIED_BYTES} bytes, found {size}")
