# SPDX-License-Identifier: Apache-2.0
"""Values between Python and Wasmtime's C interface, without looking at types in a call.

Wasmtime's own Python layer asks for the types of a function at every call, and takes
lists apart element by element: 1 µs a byte. Here a type of the world is turned into a
pair of functions once, and lists of numbers move as one block of memory. Lifting only
reads: whoever gave us a value frees it. Lowering allocates with Wasmtime's allocator:
whoever gets the value frees it.

A handle is the number behind it (`host/tensors.py`). Lifting a handle, owned or
borrowed, ends it on our side, as the C interface wants it.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from wasmtime import _bindings as c
from wasmtime import _ffi as ffi

from kedge_agent.host.refusal import Reason, Refusal, exhausted
from kedge_wire.wit_types import (
    F32,
    S64,
    STRING,
    U8,
    U32,
    Borrow,
    Enum,
    ListOf,
    Own,
    Record,
    Result,
    TupleOf,
    WitType,
)
from kedge_wire.world import ERROR

Lift = Callable[[Any, Any], Any]
"""From a C value and the store's context to Python."""

Lower = Callable[[Any, Any, Any], None]
"""Fills a C value from a Python one and the store's context."""

RESOURCES: Final[Mapping[str, int]] = {"tensor": 1, "model": 2}
"""Wasmtime tells the host's resource types apart by number."""

MAX_NUMBERS: Final = 1024 * 1024
"""In a list of numbers from a component: each takes 32 bytes here before we see it."""

MAX_ITEMS: Final = 4096
"""In any other list; each is taken apart in Python."""

_NUMBERS: Final[Mapping[WitType, tuple[int, str, str]]] = {
    U8: (ffi.WASMTIME_COMPONENT_U8.value, "u8", "u1"),
    U32: (ffi.WASMTIME_COMPONENT_U32.value, "u32", "<u4"),
    S64: (ffi.WASMTIME_COMPONENT_S64.value, "s64", "<i8"),
    F32: (ffi.WASMTIME_COMPONENT_F32.value, "f32", "<f4"),
}
"""Kind, member of the union and memory layout."""

_STRING: Final = ffi.WASMTIME_COMPONENT_STRING.value
_LIST: Final = ffi.WASMTIME_COMPONENT_LIST.value
_TUPLE: Final = ffi.WASMTIME_COMPONENT_TUPLE.value
_VARIANT: Final = ffi.WASMTIME_COMPONENT_VARIANT.value
_ENUM: Final = ffi.WASMTIME_COMPONENT_ENUM.value
_RESULT: Final = ffi.WASMTIME_COMPONENT_RESULT.value
_RESOURCE: Final = ffi.WASMTIME_COMPONENT_RESOURCE.value

_VAL: Final = c.wasmtime_component_val_t
_VAL_SIZE: Final = ctypes.sizeof(_VAL)
_FEW: Final = 8
"""Up to so many numbers a loop is faster than a block."""


class BindingError(Exception):
    """The C interface refused what it never should: a bug, or a false handle."""


def error_text(error: Any) -> str:
    """The message of a C error, which is freed."""
    message = c.wasm_name_t()
    c.wasmtime_error_message(error, ctypes.byref(message))
    text = _text(message)
    c.wasm_byte_vec_delete(ctypes.byref(message))
    c.wasmtime_error_delete(error)
    return text


# ------------------------------------------------------------------ C to Python


def lifter(wit_type: WitType) -> Lift:
    """The function that lifts values of a type."""
    match wit_type:
        case ListOf(element) if element in _NUMBERS:
            lift = _lift_numbers(element)
        case ListOf(element):
            lift = _lift_list(lifter(element))
        case TupleOf(items):
            lift = _lift_tuple([lifter(item) for item in items])
        case Record(fields):
            lift = _lift_record([(name, lifter(field)) for name, field in fields])
        case Result(ok, error) if error == ERROR:
            lift = _lift_result(None if ok is None else lifter(ok))
        case Enum():
            lift = _lift_enum
        case Own() | Borrow():
            lift = _lift_handle
        case _:
            lift = _lift_primitive(wit_type)
    return lift


def _text(name: Any) -> str:
    return ctypes.string_at(name.data, name.size).decode() if name.size else ""


def _lift_primitive(wit_type: WitType) -> Lift:
    if wit_type == STRING:
        return lambda value, _: _text(value.of.string)
    if wit_type not in _NUMBERS:
        raise TypeError(f"expected a type that our worlds take, found {wit_type}")
    _, member, _ = _NUMBERS[wit_type]
    return lambda value, _: getattr(value.of, member)


def _lift_enum(value: Any, _context: Any) -> str:
    return _text(value.of.enumeration)


def _lift_handle(value: Any, context: Any) -> int:
    host = ctypes.POINTER(c.wasmtime_component_resource_host_t)()
    error = c.wasmtime_component_resource_any_to_host(
        context, value.of.resource, ctypes.byref(host)
    )
    if error:
        raise BindingError(f"handle: {error_text(error)}")
    number: int = c.wasmtime_component_resource_host_rep(host)
    c.wasmtime_component_resource_host_delete(host)
    return number


def _layout(wit_type: WitType) -> np.dtype[Any]:
    """An array of C values as NumPy sees it."""
    _, _, number = _NUMBERS[wit_type]
    return np.dtype(
        {
            "names": ["kind", "number"],
            "formats": ["u1", number],
            "offsets": [0, _VAL.of.offset],
            "itemsize": _VAL_SIZE,
        }
    )


def _lift_numbers(element: WitType) -> Lift:
    _, member, _ = _NUMBERS[element]
    layout = _layout(element)
    is_bytes = element == U8

    def lift(value: Any, _context: Any) -> Sequence[Any]:
        numbers = value.of.list
        size = numbers.size
        if size > MAX_NUMBERS:
            raise exhausted(f"list: expected at most {MAX_NUMBERS}, found {size}")
        if size <= _FEW:
            data = numbers.data
            few = [getattr(data[i].of, member) for i in range(size)]
            return bytes(few) if is_bytes else few
        block = ctypes.string_at(numbers.data, size * _VAL_SIZE)
        column = np.frombuffer(block, dtype=layout)["number"]
        return column.tobytes() if is_bytes else column.tolist()

    return lift


def _lift_list(lift_item: Lift) -> Lift:
    def lift(value: Any, context: Any) -> list[Any]:
        items = value.of.list
        if items.size > MAX_ITEMS:
            raise exhausted(f"list: expected at most {MAX_ITEMS}, found {items.size}")
        data = items.data
        return [lift_item(data[i], context) for i in range(items.size)]

    return lift


def _lift_tuple(lifters: Sequence[Lift]) -> Lift:
    def lift(value: Any, context: Any) -> tuple[Any, ...]:
        data = value.of.tuple.data
        return tuple(item(data[i], context) for i, item in enumerate(lifters))

    return lift


def _lift_record(fields: Sequence[tuple[str, Lift]]) -> Lift:
    def lift(value: Any, context: Any) -> dict[str, Any]:
        data = value.of.record.data
        return {
            name: field(data[i].val, context) for i, (name, field) in enumerate(fields)
        }

    return lift


def _lift_result(lift_ok: Lift | None) -> Lift:
    def lift(value: Any, context: Any) -> Any:
        result = value.of.result
        if result.is_ok:
            return None if lift_ok is None else lift_ok(result.val.contents, context)
        variant = result.val.contents.of.variant
        message = _text(variant.val.contents.of.string)
        raise Refusal(Reason(_text(variant.discriminant)), message)

    return lift


# ------------------------------------------------------------------ Python to C


def lowerer(wit_type: WitType) -> Lower:
    """The function that lowers values of a type."""
    match wit_type:
        case ListOf(element) if element in _NUMBERS:
            lower = _lower_numbers(element)
        case ListOf(element):
            lower = _lower_list(lowerer(element))
        case TupleOf(items):
            lower = _lower_tuple([lowerer(item) for item in items])
        case Result(ok, error) if error == ERROR and ok is not None:
            lower = _lower_ok(lowerer(ok))
        case Enum():
            lower = _lower_enum
        case Own(resource):
            lower = _lower_own(RESOURCES[resource])
        case _ if wit_type == STRING:
            lower = _lower_text
        case _:
            raise TypeError(f"expected a type that our worlds answer, found {wit_type}")
    return lower


def _name(text: str) -> Any:
    encoded = text.encode()
    name = c.wasm_name_t()
    c.wasm_byte_vec_new_uninitialized(ctypes.byref(name), len(encoded))
    ctypes.memmove(name.data, encoded, len(encoded))
    return name


def _lower_text(value: Any, text: str, _context: Any) -> None:
    value.kind = _STRING
    value.of.string = _name(text)


def _lower_enum(value: Any, case: str, _context: Any) -> None:
    value.kind = _ENUM
    value.of.enumeration = _name(case)


def _lower_own(kind: int) -> Lower:
    def lower(value: Any, number: int, context: Any) -> None:
        handle = ctypes.POINTER(c.wasmtime_component_resource_any_t)()
        host = c.wasmtime_component_resource_host_new(True, number, kind)
        error = c.wasmtime_component_resource_host_to_any(
            context, host, ctypes.byref(handle)
        )
        c.wasmtime_component_resource_host_delete(host)
        if error:
            raise BindingError(f"handle: {error_text(error)}")
        value.kind = _RESOURCE
        value.of.resource = handle

    return lower


def _lower_numbers(element: WitType) -> Lower:
    kind, _, number = _NUMBERS[element]
    layout = _layout(element)

    def lower(value: Any, numbers: Sequence[Any] | bytes, _context: Any) -> None:
        block = np.zeros(len(numbers), dtype=layout)
        block["kind"] = kind
        if isinstance(numbers, bytes):
            block["number"] = np.frombuffer(numbers, dtype=number)
        else:
            block["number"] = numbers
        items = c.wasmtime_component_vallist_t()
        c.wasmtime_component_vallist_new_uninit(ctypes.byref(items), len(numbers))
        ctypes.memmove(items.data, block.ctypes.data, block.nbytes)
        value.kind = _LIST
        value.of.list = items

    return lower


def _lower_list(lower_item: Lower) -> Lower:
    def lower(value: Any, sequence: Sequence[Any], context: Any) -> None:
        items = c.wasmtime_component_vallist_t()
        c.wasmtime_component_vallist_new_uninit(ctypes.byref(items), len(sequence))
        for i, item in enumerate(sequence):
            lower_item(items.data[i], item, context)
        value.kind = _LIST
        value.of.list = items

    return lower


def _lower_tuple(lowerers: Sequence[Lower]) -> Lower:
    def lower(value: Any, sequence: Sequence[Any], context: Any) -> None:
        items = c.wasmtime_component_valtuple_t()
        c.wasmtime_component_valtuple_new_uninit(ctypes.byref(items), len(lowerers))
        for i, lower_item in enumerate(lowerers):
            lower_item(items.data[i], sequence[i], context)
        value.kind = _TUPLE
        value.of.tuple = items

    return lower


def _lower_ok(lower_payload: Lower) -> Lower:
    def lower(value: Any, payload: Any, context: Any) -> None:
        inner = _VAL()
        lower_payload(inner, payload, context)
        value.kind = _RESULT
        value.of.result.is_ok = True
        value.of.result.val = c.wasmtime_component_val_new(ctypes.byref(inner))

    return lower


def lower_refusal(value: Any, refusal: Refusal) -> None:
    """Fill a `result<_, error>` with an error."""
    message = _VAL()
    # Raised below the last handler: it must not fail on whatever the message quotes.
    _lower_text(message, str(refusal).encode(errors="replace").decode(), None)
    variant = _VAL()
    variant.kind = _VARIANT
    variant.of.variant.discriminant = _name(refusal.reason)
    variant.of.variant.val = c.wasmtime_component_val_new(ctypes.byref(message))
    value.kind = _RESULT
    value.of.result.is_ok = False
    value.of.result.val = c.wasmtime_component_val_new(ctypes.byref(variant))
