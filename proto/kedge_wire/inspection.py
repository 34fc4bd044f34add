# SPDX-License-Identifier: Apache-2.0
"""The door to Wasmtime for the question: are these bytes a component of our world?

Sizes are checked before parsing, types before running. Compiling blocks for tens of
milliseconds, and for seconds with a hostile component, so callers give it a thread or a
process of its own. The only code of a component that runs here is its `metadata`, with
every import trapping, little memory and a budget of instructions. Wasmtime is imported
at the first call: it costs 150 ms.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kedge_wire.wit_types import (
    BOOL,
    F32,
    S64,
    STRING,
    U8,
    U32,
    Borrow,
    Enum,
    Func,
    ListOf,
    Own,
    Primitive,
    Record,
    Result,
    TupleOf,
    Variant,
    WitType,
)
from kedge_wire.world import (
    MAX_PROBLEMS,
    MODEL_COMPONENT,
    RESOURCE,
    ComponentMetadata,
    WorldError,
    check,
)

MAX_COMPONENT_BYTES: Final = 32 * 1024 * 1024
"""The largest interpreters (JavaScript, Python) make components of 12 to 18 MB."""

MAX_TYPE_NODES: Final = 50_000
"""Types may share parts and unfold exponentially; our world has some hundred."""

MAX_TYPE_CHARACTERS: Final = 1_000_000
"""Of all names in all items, as often as they are written down; our world has 3,000."""

MAX_RESOURCES: Final = 500
"""Resource types; each new one is compared with those before it."""

METADATA_FUEL: Final = 100_000_000
"""Instructions for `metadata` and, before it, what interpreters do to begin."""

METADATA_MEMORY_BYTES: Final = 64 * 1024 * 1024

MAX_MEMORIES: Final = 1
"""Wasmtime bounds the size of each memory; one memory makes that a bound on all."""

MAX_TABLES: Final = 8
MAX_TABLE_ELEMENTS: Final = 100_000
"""Interpreters have tens of thousands of functions."""

MAX_CORE_INSTANCES: Final = 64

MAX_REASON: Final = 400  # characters

_MAGIC: Final = b"\0asm"
_COMPONENT: Final = bytes((0x0D, 0, 1, 0))
_MODULE: Final = bytes((1, 0, 0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentFacts:
    """What a component of our world uses, and what it says about itself."""

    imports: tuple[str, ...]
    metadata: ComponentMetadata


def check_component(wasm: bytes) -> ComponentFacts:
    """Check a component against the world and read its metadata.

    Raises:
        WorldError: Not a component, not of our world, or its metadata cannot be read.
    """
    from wasmtime import Config, Engine

    config = Config()
    config.consume_fuel = True
    # The code runs once; compiling it well would take longer than running it.
    config.cranelift_opt_level = "none"
    engine = Engine(config)
    component = compile_component(engine, wasm)
    imports, _ = describe(engine, component)
    return ComponentFacts(
        imports=tuple(sorted(imports)), metadata=_read_metadata(engine, component)
    )


def compile_component(engine: Any, wasm: bytes) -> Any:
    """Compile bytes to a `wasmtime.component.Component` of our world.

    Raises:
        WorldError: Not a component, malformed, or it does not fit the world.
    """
    from wasmtime import WasmtimeError
    from wasmtime.component import Component

    _check_header(wasm)
    try:
        component = Component(engine, wasm)
    except WasmtimeError as exc:
        raise WorldError(f"expected a valid component: {reason(exc)}") from exc
    problems = check(*describe(engine, component))
    if problems:
        left_out = len(problems) - MAX_PROBLEMS
        more = [f"and {left_out} more"] if left_out > 0 else []
        raise WorldError(*problems[:MAX_PROBLEMS], *more)
    return component


def limit_store(store: Any, *, memory_bytes: int) -> None:
    """Bound what the components of a store may take, here as on a device."""
    store.set_limits(
        memory_size=memory_bytes,
        table_elements=MAX_TABLE_ELEMENTS,
        instances=MAX_CORE_INSTANCES,
        tables=MAX_TABLES,
        memories=MAX_MEMORIES,
    )


def describe(engine: Any, component: Any) -> tuple[dict[str, str], dict[str, str]]:
    """List imports and exports as `interface#item` with the text of their types.

    Raises:
        WorldError: The types are too large to be written down.
    """
    description = _Description(engine)
    component_type = component.type
    imports = component_type.imports(engine)
    exports = component_type.exports(engine)
    # Imports first: they define the resources that the types of exports mean.
    return dict(description.items(imports)), dict(description.items(exports))


def _check_header(wasm: bytes) -> None:
    if len(wasm) > MAX_COMPONENT_BYTES:
        raise WorldError(
            f"expected at most {MAX_COMPONENT_BYTES} bytes, found {len(wasm)}"
        )
    if wasm[:4] != _MAGIC:
        raise WorldError(f"expected WebAssembly, found bytes {wasm[:4].hex(' ')}")
    if wasm[4:8] == _MODULE:
        raise WorldError("expected a component, found a core module")
    if wasm[4:8] != _COMPONENT:
        raise WorldError(f"expected a component, found version {wasm[4:8].hex(' ')}")


def _read_metadata(engine: Any, component: Any) -> ComponentMetadata:
    from wasmtime import Store, WasmtimeError
    from wasmtime.component import Linker

    with Store(engine) as store, Linker(engine) as linker:
        store.set_fuel(METADATA_FUEL)
        limit_store(store, memory_bytes=METADATA_MEMORY_BYTES)
        linker.define_unknown_imports_as_traps(component)
        try:
            instance = linker.instantiate(store, component)
            interface = instance.get_export_index(store, MODEL_COMPONENT)
            index = instance.get_export_index(store, "metadata", interface)
            answer = instance.get_func(store, index)(store)
        except WasmtimeError as exc:
            raise WorldError(f"metadata: {reason(exc)}") from exc
    return ComponentMetadata.from_record(_plain(answer))


def _plain(value: Any) -> Any:
    """Records to mappings."""
    from wasmtime.component import Record as WasmtimeRecord

    if isinstance(value, WasmtimeRecord):
        return {name: _plain(field) for name, field in vars(value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def reason(error: Exception) -> str:
    """Say on one line why Wasmtime gave up, without the backtrace of addresses."""
    head, _, causes = str(error).partition("Caused by:")
    lines = causes.splitlines() if causes.strip() else head.splitlines()[:1]
    texts = (line.strip().lstrip("0123456789: ") for line in lines)
    return ": ".join(text for text in texts if text)[:MAX_REASON]


class _Description:
    """Rewrites Wasmtime's types as ours, within a budget."""

    def __init__(self, engine: Any) -> None:
        from wasmtime import component

        self._engine = engine
        self._component = component
        self._nodes = 0
        self._characters = 0
        self._resources: list[tuple[Any, str]] = []
        self._converters: Mapping[type, Callable[[Any], WitType]] = {
            component.ListType: lambda t: ListOf(self._type(t.element)),
            component.TupleType: lambda t: TupleOf(self._types(t.elements)),
            component.RecordType: lambda t: Record(self._fields(t.fields)),
            component.VariantType: lambda t: Variant(self._cases(t.cases)),
            component.EnumType: lambda t: Enum(tuple(map(self._name, t.names))),
            component.ResultType: lambda t: Result(
                self._maybe(t.ok), self._maybe(t.err)
            ),
            component.OwnType: lambda t: Own(self._resource(t.ty)),
            component.BorrowType: lambda t: Borrow(self._resource(t.ty)),
            component.OptionType: lambda t: Primitive(
                f"option<{self._type(t.payload)}>"
            ),
            component.Bool: lambda _: BOOL,
            component.U8: lambda _: U8,
            component.U32: lambda _: U32,
            component.S64: lambda _: S64,
            component.F32: lambda _: F32,
            component.String: lambda _: STRING,
        }

    def items(self, externs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, extern in externs.items():
            if isinstance(extern, self._component.ComponentInstanceType):
                exports = extern.exports(self._engine)
                yield from self._interface(f"{name}#", exports)
            else:
                yield from self._interface("", {name: extern})

    def _interface(
        self, prefix: str, items: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        for name, item in items.items():
            self._count(prefix)
            self._name(name)
            if isinstance(item, self._component.ResourceType):
                if not self._known(item):
                    yield prefix + name, RESOURCE
                    self._define(name, item)
            elif isinstance(item, self._component.FuncType):
                yield prefix + name, str(self._func(item))
            elif not isinstance(item, self._component.ValType):
                yield prefix + name, type(item).__name__

    def _known(self, resource: Any) -> bool:
        return any(known == resource for known, _ in self._resources)

    def _define(self, name: str, resource: Any) -> None:
        if len(self._resources) >= MAX_RESOURCES:
            raise WorldError(f"expected at most {MAX_RESOURCES} resource types")
        self._resources.append((resource, self._unused(name)))

    def _unused(self, name: str) -> str:
        """A resource of the component's own is not ours, even under the same name."""
        taken = any(known == name for _, known in self._resources)
        return f"another {name}" if taken else name

    def _resource(self, resource: Any) -> str:
        names = (name for known, name in self._resources if known == resource)
        return self._name(next(names, "a resource unknown here"))

    def _func(self, func: Any) -> Func:
        return Func(self._fields(func.params), self._maybe(func.result))

    def _count(self, name: str) -> None:
        """Charge one part and its name."""
        self._nodes += 1
        if self._nodes > MAX_TYPE_NODES:
            raise WorldError(f"expected types of at most {MAX_TYPE_NODES} parts")
        self._name(name)

    def _name(self, name: str) -> str:
        self._characters += len(name)
        if self._characters > MAX_TYPE_CHARACTERS:
            raise WorldError(
                f"expected names of at most {MAX_TYPE_CHARACTERS} characters in all"
            )
        return name

    def _type(self, wasmtime_type: Any) -> WitType:
        self._count("")
        convert = self._converters.get(type(wasmtime_type))
        if convert is None:
            return Primitive(type(wasmtime_type).__name__.removesuffix("Type").lower())
        return convert(wasmtime_type)

    def _maybe(self, wasmtime_type: Any) -> WitType | None:
        return None if wasmtime_type is None else self._type(wasmtime_type)

    def _types(self, types: list[Any]) -> tuple[WitType, ...]:
        return tuple(self._type(item) for item in types)

    def _fields(self, fields: list[tuple[str, Any]]) -> tuple[tuple[str, WitType], ...]:
        return tuple((self._name(name), self._type(field)) for name, field in fields)

    def _cases(
        self, cases: list[tuple[str, Any]]
    ) -> tuple[tuple[str, WitType | None], ...]:
        return tuple(
            (self._name(name), self._maybe(payload)) for name, payload in cases
        )
