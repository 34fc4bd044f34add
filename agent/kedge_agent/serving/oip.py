# SPDX-License-Identifier: Apache-2.0
"""Tensors of the Open Inference Protocol between the wire and NumPy; no I/O.

What both protocols share: a request and its limits, shapes, and the raw form of tensors
(row-major, little-endian; an element of BYTES is a u32 length and that many bytes).
Every request is hostile until it is parsed: sizes are compared with the bytes that are
there before memory is taken, and whatever is malformed is an `InvalidRequestError` that
names the tensor, expected and found.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kedge_agent.errors import GuestError, InvalidRequestError
from kedge_agent.inference.datatypes import DTYPES, datatype_of

MAX_RANK: Final = 64
"""Dimensions of a NumPy array."""

_LENGTH: Final = struct.Struct("<I")

_KINDS: Final[Mapping[str, frozenset[type]]] = {
    "b": frozenset({bool}),
    "f": frozenset({int, float}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "O": frozenset({bytes}),
}
"""Python's types of an element, by NumPy's kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what callers may ask for, over all models of a server."""

    body_bytes: int = 64 * 1024 * 1024
    """One request. A 4K image as FP32 takes 100 MB; as UINT8 it fits twice."""

    json_bytes: int = 16 * 1024 * 1024
    """JSON of one request. Numbers in JSON take some 15 times their size in memory."""

    message_bytes: int = 16 * 1024 * 1024
    """One request over gRPC, which says no size before all of it has arrived. Larger
    ones go over HTTP."""

    messages: int = 8
    """Requests over gRPC that arrive at once, each of `message_bytes` at most. Others
    wait until one has arrived."""

    buffered_bytes: int = 256 * 1024 * 1024
    """Requests that have arrived, or arrive over HTTP, until they are answered, and
    answers until they are written."""

    in_flight: int = 256
    """Requests that a model is asked to answer; more are refused with a hint to come
    back. Those that still arrive do not count: they are bounded by connections, bytes
    and time."""

    listed_elements: int = 2 * 1024 * 1024
    """Elements of one tensor that are handled one by one, on the event loop: JSON,
    typed contents, BYTES. Also of all outputs that one answer has in JSON."""

    tensors: int = 256
    """Inputs, and outputs asked for, of one request."""

    parameters: int = 64
    """Parameters of one request; the model's component gets them all."""

    parameters_bytes: int = 16 * 1024
    """Names and values of one request's parameters."""

    timeout_s: float = 30.0
    """For one answer, whatever the workload itself may take: a caller that needs longer
    is not served by this protocol. Also the longest that a request may take to
    arrive."""

    arrival_s: float = 5.0
    """Until a request has arrived. Over HTTP, each MiB of it that did buys another
    second, so slow links can send large bodies and nobody can send nothing for long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """An output that the caller asks for, and whether in binary (HTTP only)."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """One request, parsed. No outputs asked for means all of them, `binary` or not."""

    id: str
    parameters: Mapping[str, str]
    inputs: Mapping[str, np.ndarray]
    outputs: tuple[RequestedOutput, ...]
    binary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InferAnswer:
    """What goes back, before it has a wire form."""

    model_name: str
    model_version: str
    id: str
    parameters: Mapping[str, str]
    outputs: Sequence[tuple[str, np.ndarray]]


def datatype_checked(name: str, datatype: object) -> str:
    """Return a datatype that the protocol has."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidRequestError(
            f"tensor {name}: expected a datatype of {', '.join(DTYPES)}, "
            f"found {datatype!r:.80}",
            element=name,
        )
    return datatype


def shape_checked(
    name: str, shape: Iterable[object], limits: Limits
) -> tuple[int, ...]:
    """Return a shape that NumPy can hold and a body could fill."""
    dims: list[int] = []
    for dim in shape:
        # bool is an int in Python, not in a shape.
        if type(dim) is not int or dim < 0 or len(dims) == MAX_RANK:
            raise InvalidRequestError(
                f"tensor {name}: expected a shape of at most {MAX_RANK} integers of 0 "
                f"or more, found {dim!r:.80} at position {len(dims)}",
                element=name,
            )
        dims.append(dim)
    # Zero hides the others from the product, and they overflow all the same.
    if math.prod(dim or 1 for dim in dims) > limits.body_bytes:
        raise InvalidRequestError(
            f"tensor {name}: expected at most {limits.body_bytes} elements, "
            f"found shape {dims!s:.80}",
            element=name,
        )
    return tuple(dims)


def listed_checked(name: str, shape: tuple[int, ...], limits: Limits) -> None:
    """Refuse a tensor of more elements than can be handled one by one."""
    if math.prod(shape) > limits.listed_elements:
        raise InvalidRequestError(
            f"tensor {name}: expected at most {limits.listed_elements} elements, "
            f"found {math.prod(shape)}; send large tensors of numbers raw",
            element=name,
        )


def from_raw(
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    data: bytes | memoryview,
    *,
    limits: Limits,
) -> np.ndarray:
    """Make an array of a tensor's raw form, a view of `data` where that can be."""
    count = math.prod(shape)
    if datatype == "BYTES":
        listed_checked(name, shape, limits)
        return _elements(name, count, data).reshape(shape)
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise InvalidRequestError(
            f"tensor {name}: expected {count * dtype.itemsize} bytes for {datatype} "
            f"{list(shape)}, found {len(data)}",
            element=name,
        )
    if datatype == "BOOL":
        raw = np.frombuffer(data, dtype=np.uint8)
        if count and raw.max() > 1:
            raise InvalidRequestError(
                f"tensor {name}: expected bytes 0 or 1 for BOOL, found {raw.max()}",
                element=name,
            )
    array = np.frombuffer(data, dtype=dtype)
    # Behind JSON, numbers start anywhere; native code wants them aligned.
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def to_raw(name: str, array: np.ndarray) -> bytes:
    """Return a tensor's raw form."""
    if datatype_named(name, array) != "BYTES":
        return array.tobytes()
    parts: list[bytes] = []
    for element in array.flat:
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def datatype_named(name: str, array: np.ndarray) -> str:
    """Name the datatype of an output."""
    datatype = datatype_of(array)
    if datatype is None:
        raise GuestError(
            f"output {name}: expected a datatype of the protocol, found {array.dtype}",
            element=name,
        )
    return datatype


def requested(
    outputs: Sequence[tuple[str, np.ndarray]], wanted: Sequence[RequestedOutput]
) -> Sequence[tuple[str, np.ndarray]]:
    """Choose the outputs asked for, in the order asked for; none means all."""
    if not wanted:
        return outputs
    by_name = dict(outputs)
    for output in wanted:
        if output.name not in by_name:
            raise InvalidRequestError(
                f"outputs: expected some of {', '.join(by_name)}, "
                f"found {output.name!r:.80}",
                element=output.name,
            )
    return [(output.name, by_name[output.name]) for output in wanted]


def count_checked(what: str, count: int, limits: Limits) -> None:
    """Refuse more tensors than the limit."""
    if count > limits.tensors:
        raise InvalidRequestError(
            f"{what}: expected at most {limits.tensors} tensors, found {count}"
        )


def parameters_checked(parameters: Mapping[str, str], limits: Limits) -> None:
    """Refuse more of parameters than the limits."""
    if len(parameters) > limits.parameters:
        raise InvalidRequestError(
            f"parameters: expected at most {limits.parameters}, found {len(parameters)}"
        )
    size = sum(len(n.encode()) + len(v.encode()) for n, v in parameters.items())
    if size > limits.parameters_bytes:
        raise InvalidRequestError(
            f"parameters: expected at most {limits.parameters_bytes} bytes, "
            f"found {size}"
        )


def from_listed(
    name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]
) -> np.ndarray:
    """Make an array of elements that came one by one, refusing those that do not fit.

    `values` are Python's own numbers, booleans or `bytes`, flat. Kinds are compared
    before NumPy sees them: it reads text as numbers, and sizes an array by its longest
    string.
    """
    if len(values) != math.prod(shape):
        raise InvalidRequestError(
            f"tensor {name}: expected {math.prod(shape)} elements for shape "
            f"{list(shape)}, found {len(values)}",
            element=name,
        )
    dtype = DTYPES[datatype]
    odd = set(map(type, values)) - _KINDS[dtype.kind]
    if odd:
        found = ", ".join(sorted(kind.__name__ for kind in odd))
        raise InvalidRequestError(
            f"tensor {name}: expected {datatype} elements, found {found}", element=name
        )
    if datatype == "BYTES":
        elements = np.empty(len(values), dtype=object)
        elements[:] = values
        return elements.reshape(shape)
    try:
        # Fractions go through FP64, whose conversion notices what is out of range.
        exact = np.array(values, dtype=np.float64 if dtype.kind == "f" else dtype)
        with np.errstate(over="raise"):
            return exact.astype(dtype, copy=False).reshape(shape)
    except (OverflowError, FloatingPointError) as exc:
        raise InvalidRequestError(
            f"tensor {name}: expected elements in the range of {datatype}, "
            "found some beyond",
            element=name,
        ) from exc


def _elements(name: str, count: int, data: bytes | memoryview) -> np.ndarray:
    elements = np.empty(count, dtype=object)
    offset = 0
    try:
        for index in range(count):
            (size,) = _LENGTH.unpack_from(data, offset)
            offset += _LENGTH.size
            elements[index] = bytes(data[offset : offset + size])
            offset += size
    except struct.error as exc:
        raise InvalidRequestError(
            f"tensor {name}: expected {count} BYTES elements, found the end of its "
            f"{len(data)} bytes in element {index}",
            element=name,
        ) from exc
    if offset != len(data):
        raise InvalidRequestError(
            f"tensor {name}: expected {count} BYTES elements to end with its "
            f"{len(data)} bytes, found them to end at {offset}",
            element=name,
        )
    return elements
