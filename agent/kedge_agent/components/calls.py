# SPDX-License-Identifier: Apache-2.0
"""Functions across the boundary: a component's imports, and its exports.

Both are bound once per store and hold no types. An exception cannot cross Wasmtime's
frames: in an import it becomes the function's `error`, or a trap where the function has
none or the fault is ours.
"""

import ctypes
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from wasmtime import _bindings as c
from wasmtime.component import Component, Instance, Linker, ResourceType

from kedge_agent.components.values import (
    RESOURCES,
    error_text,
    lifter,
    lower_refusal,
    lowerer,
)
from kedge_agent.host.refusal import Refusal
from kedge_wire.wit_types import Func, Result
from kedge_wire.world import EXPORTS, IMPORTS, RESOURCE

logger = logging.getLogger(__name__)

Drop = Callable[[int], None]

_FINALIZER: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_NO_FINALIZER: Final = ctypes.cast(0, _FINALIZER)


class CallError(Exception):
    """A call did not return: a trap, or the deadline. Its store is unusable."""


class Imports:
    """Host functions for one store, in a linker of its own.

    Wasmtime holds bare pointers to what is kept alive here: this object outlives the
    store.
    """

    def __init__(
        self,
        engine: Any,
        *,
        functions: Mapping[str, Mapping[str, Callable[..., Any]]],
        drops: Mapping[str, Drop],
        check_time: Callable[[], None],
    ) -> None:
        """Link them.

        Args:
            engine: Wasmtime's.
            functions: By interface and item.
            drops: What to call with the number of a dropped resource, by its item.
            check_time: Called before and after each function; refuses when the
                request's time is over.
        """
        self._callbacks: Final[list[Any]] = []
        self.linker: Final = Linker(engine)
        with self.linker.root() as root:
            for interface, items in IMPORTS.items():
                if not items:
                    continue  # types only: nothing to link
                with root.add_instance(interface) as instance:
                    for item, kind in items.items():
                        if isinstance(kind, Func):
                            function = functions[interface][item]
                            call = _guarded(item, kind, function, check_time)
                            self._add(instance, item, call)
                        elif kind == RESOURCE:
                            self._add_resource(instance, item, drops[item])

    def instantiate(self, store: Any, component: Component) -> Instance:
        return self.linker.instantiate(store, component)

    def close(self) -> None:
        """Free the linker; the store is closed before."""
        self.linker.close()
        self._callbacks.clear()

    def _add(self, instance: Any, item: str, call: Callable[..., int]) -> None:
        callback = c.wasmtime_component_func_callback_t(call)
        self._callbacks.append(callback)
        name = item.encode()
        error = c.wasmtime_component_linker_instance_add_func(
            instance.ptr(), name, len(name), callback, None, _NO_FINALIZER
        )
        if error:
            raise CallError(error_text(error))

    def _add_resource(self, instance: Any, item: str, drop: Drop) -> None:
        def destroy(_data: Any, _context: Any, number: int) -> int:
            drop(number)
            return 0

        callback = c.wasmtime_component_resource_destructor_t(destroy)
        self._callbacks.append(callback)
        name = item.encode()
        resource = ResourceType.host(RESOURCES[item])  # lives as long as its pointer
        error = c.wasmtime_component_linker_instance_add_resource(
            instance.ptr(),
            name,
            len(name),
            resource.ptr(),
            callback,
            None,
            _NO_FINALIZER,
        )
        if error:
            raise CallError(error_text(error))


def _guarded(
    item: str,
    kind: Func,
    function: Callable[..., Any],
    check_time: Callable[[], None],
) -> Callable[..., int]:
    """A host function as C calls it: nothing but 0 or an error comes out."""
    lifters = tuple(lifter(param) for _, param in kind.params)
    lower = None if kind.result is None else lowerer(kind.result)
    may_refuse = isinstance(kind.result, Result)

    def call(
        _data: Any, context: Any, _type: Any, args: Any, _n: int, results: Any, _m: int
    ) -> int:
        try:
            values = [lift(args[i], context) for i, lift in enumerate(lifters)]
            check_time()  # epochs stop a component at loops and calls, not in here
            answer = function(*values)
            check_time()
            if lower is not None:
                lower(results[0], answer, context)
        except Refusal as refusal:
            if not may_refuse:
                return _new_error(f"{item}: {refusal}")
            lower_refusal(results[0], refusal)
        except BaseException:  # the last Python frame below Wasmtime's
            logger.exception("host function failed: %s", item)
            return _new_error(f"{item}: the host failed")
        return 0

    return call


def _new_error(message: str) -> int:
    text = message.encode(errors="replace").replace(b"\0", b"")
    error = c.wasmtime_error_new(text + b"\0")
    return ctypes.cast(error, ctypes.c_void_p).value or 0


class Export:
    """One exported function of one instance."""

    def __init__(
        self, store: Any, instance: Instance, interface: str, item: str
    ) -> None:
        kind = EXPORTS[interface][item]
        if not isinstance(kind, Func):
            raise TypeError(f"{interface}#{item}: expected a function, found a {kind}")
        index = instance.get_export_index(
            store, item, instance.get_export_index(store, interface)
        )
        self._function: Final = instance.get_func(store, index)
        self._pointer: Final = ctypes.byref(self._function._func)  # noqa: SLF001
        self._context: Final = store._context()  # noqa: SLF001 - no public way to C
        self._lowerers: Final = tuple(lowerer(param) for _, param in kind.params)
        self._lift: Final = None if kind.result is None else lifter(kind.result)
        self._params: Final = (c.wasmtime_component_val_t * len(kind.params))()

    def __call__(self, *values: Any) -> Any:
        """Call it.

        Raises:
            Refusal: It answered an error.
            CallError: It did not return.
        """
        count = len(self._lowerers)
        for i, lower in enumerate(self._lowerers):
            lower(self._params[i], values[i], self._context)
        result = c.wasmtime_component_val_t()
        error = c.wasmtime_component_func_call(
            self._pointer,
            self._context,
            self._params,
            count,
            ctypes.byref(result),
            0 if self._lift is None else 1,
        )
        for i in range(count):
            c.wasmtime_component_val_delete(ctypes.byref(self._params[i]))
        if error:
            raise CallError(error_text(error))
        try:
            return None if self._lift is None else self._lift(result, self._context)
        finally:
            c.wasmtime_component_val_delete(ctypes.byref(result))
