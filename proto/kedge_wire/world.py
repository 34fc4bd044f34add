# SPDX-License-Identifier: Apache-2.0
"""The world `kedge:ai/model@0.1.0` as data, and whether a component fits it.

This says in Python what `wit/kedge-ai/*.wit` say: the functions that the host provides,
those that a component must export, and their types. Control plane and device check
components against it, and the device's host binds by it. No I/O; nothing here runs or
parses WebAssembly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from kedge_wire.statement import NAME, VERSION, TensorSpec
from kedge_wire.wit_types import (
    F32,
    NAMES,
    S64,
    STRING,
    U8,
    U32,
    Borrow,
    Enum,
    Func,
    ListOf,
    Own,
    Record,
    Result,
    TupleOf,
    Variant,
    WitType,
)

WORLD: Final = "kedge:ai/model@0.1.0"
TYPES: Final = "kedge:ai/types@0.1.0"
TENSORS: Final = "kedge:ai/tensors@0.1.0"
INFERENCE: Final = "kedge:ai/inference@0.1.0"
LOG: Final = "kedge:ai/log@0.1.0"
MODEL_COMPONENT: Final = "kedge:ai/model-component@0.1.0"
LIFECYCLE: Final = "kedge:ai/lifecycle@0.1.0"

DATATYPES: Final[Mapping[str, str]] = {
    "boolean": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "fp16": "FP16",
    "fp32": "FP32",
    "fp64": "FP64",
    "bytes": "BYTES",
}
"""Cases of `element-type`, in order, to the Open Inference Protocol's datatypes."""

ERROR: Final = Variant(
    (
        ("invalid-argument", STRING),
        ("not-found", STRING),
        ("unsupported", STRING),
        ("resource-exhausted", STRING),
        ("internal", STRING),
    )
)
ELEMENT_TYPE: Final = Enum(tuple(DATATYPES))
PARAMETERS: Final = ListOf(TupleOf((STRING, STRING)))
TENSOR_SPEC: Final = Record(
    (("name", STRING), ("element-type", ELEMENT_TYPE), ("shape", ListOf(S64)))
)
LEVEL: Final = Enum(("trace", "debug", "info", "warn", "error"))
TENSOR: Final = Own("tensor")
NAMED_TENSORS: Final = ListOf(TupleOf((STRING, TENSOR)))
METADATA: Final = Record(
    (
        ("name", STRING),
        ("version", STRING),
        ("accepts", TENSOR_SPEC),
        ("model-inputs", ListOf(TENSOR_SPEC)),
        ("model-outputs", ListOf(TENSOR_SPEC)),
        ("returns", ListOf(TENSOR_SPEC)),
    )
)

NAMES.update(
    {
        ERROR: "error",
        ELEMENT_TYPE: "element-type",
        PARAMETERS: "parameters",
        TENSOR_SPEC: "tensor-spec",
        LEVEL: "level",
        TupleOf((STRING, TENSOR)): "named-tensor",
        METADATA: "component-metadata",
    }
)

RESOURCE: Final = "resource"
"""How a resource type is listed among the items of an interface."""

Interface = Mapping[str, Func | str]
"""Items by their component-model name: functions, and resources as `RESOURCE`."""


def _method(resource: str, *params: tuple[str, WitType], result: WitType) -> Func:
    return Func((("self", Borrow(resource)), *params), result)


_NEW_TENSOR: Final = Result(TENSOR, ERROR)
_ANSWER: Final = Result(NAMED_TENSORS, ERROR)

IMPORTS: Final[Mapping[str, Interface]] = {
    TYPES: {},
    TENSORS: {
        "tensor": RESOURCE,
        "[static]tensor.create": Func(
            (("shape", ListOf(U32)), ("ty", ELEMENT_TYPE), ("data", ListOf(U8))),
            _NEW_TENSOR,
        ),
        "[method]tensor.shape": _method("tensor", result=ListOf(U32)),
        "[method]tensor.element-type": _method("tensor", result=ELEMENT_TYPE),
        "[method]tensor.read": _method("tensor", result=Result(ListOf(U8), ERROR)),
        "[method]tensor.reshape": _method(
            "tensor", ("shape", ListOf(U32)), result=_NEW_TENSOR
        ),
        "[method]tensor.transpose": _method(
            "tensor", ("axes", ListOf(U32)), result=_NEW_TENSOR
        ),
        "[method]tensor.affine": _method(
            "tensor",
            ("scale", ListOf(F32)),
            ("bias", ListOf(F32)),
            ("axis", U32),
            result=_NEW_TENSOR,
        ),
        "[method]tensor.softmax": _method("tensor", ("axis", U32), result=_NEW_TENSOR),
        "[method]tensor.top-k": _method(
            "tensor", ("k", U32), result=Result(TupleOf((TENSOR, TENSOR)), ERROR)
        ),
    },
    INFERENCE: {
        "model": RESOURCE,
        "[static]model.load": Func((("name", STRING),), Result(Own("model"), ERROR)),
        "[method]model.infer": _method(
            "model", ("inputs", NAMED_TENSORS), result=_ANSWER
        ),
    },
    LOG: {"write": Func((("level", LEVEL), ("message", STRING)), None)},
}
"""What the host provides."""

EXPORTS: Final[Mapping[str, Interface]] = {
    MODEL_COMPONENT: {
        "metadata": Func((), METADATA),
        "preprocess": Func((("raw", TENSOR), ("params", PARAMETERS)), _ANSWER),
        "forward": Func((("inputs", NAMED_TENSORS), ("options", PARAMETERS)), _ANSWER),
        "postprocess": Func(
            (("outputs", NAMED_TENSORS), ("params", PARAMETERS)), _ANSWER
        ),
    },
    LIFECYCLE: {
        "configure": Func((("config", STRING),), Result(None, ERROR)),
        "health": Func((), Result(None, ERROR)),
    },
}
"""What a component must export; it may export more."""

MAX_SPECS: Final = 64
MAX_RANK: Final = 16
MAX_TENSOR_NAME: Final = 256  # characters
MAX_PROBLEMS: Final = 20
"""A hostile component may differ in thousands of items; a person reads a few."""

MAX_QUOTED: Final = 400
"""Characters of a name or type of a component's that a problem repeats."""


class WorldError(Exception):
    """Bytes that are no component of this world; `problems` has a line for each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def check(imports: Mapping[str, str], exports: Mapping[str, str]) -> list[str]:
    """Name every way in which a component does not fit the world.

    Args:
        imports: The component's items as `interface#item` with the text of their type.
            An item of the root has no interface.
        exports: Likewise.
    """
    provided, required = _listing(IMPORTS), _listing(EXPORTS)
    problems = []
    for name, found in imports.items():
        expected = provided.get(name)
        if expected is None:
            problems.append(f"import {_cut(name)}: not provided by world {WORLD}")
        elif expected != found:
            problems.append(f"import {name}: expected {expected}, found {_cut(found)}")
    for name, expected in required.items():
        found = exports.get(name, "nothing")
        if expected != found:
            problems.append(f"export {name}: expected {expected}, found {_cut(found)}")
    return problems


def _cut(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."


def _listing(interfaces: Mapping[str, Interface]) -> dict[str, str]:
    return {
        f"{interface}#{item}": str(kind)
        for interface, items in interfaces.items()
        for item, kind in items.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentMetadata:
    """What a component says about itself, checked."""

    name: str
    version: str
    accepts: TensorSpec
    model_inputs: tuple[TensorSpec, ...]
    model_outputs: tuple[TensorSpec, ...]
    returns: tuple[TensorSpec, ...]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Check a `component-metadata`, whose records are mappings.

        Raises:
            WorldError: A name, version, number of tensors or shape that we refuse.
        """
        name, version = record["name"], record["version"]
        if not NAME.fullmatch(name) or not VERSION.fullmatch(version):
            raise WorldError(
                f"metadata: expected a name like {NAME.pattern} and a version like "
                f"{VERSION.pattern}, found {name!r:.80} and {version!r:.80}"
            )
        return cls(
            name=name,
            version=version,
            accepts=_spec(record["accepts"]),
            model_inputs=_specs(record, "model-inputs"),
            model_outputs=_specs(record, "model-outputs"),
            returns=_specs(record, "returns"),
        )


def _specs(record: Mapping[str, Any], field: str) -> tuple[TensorSpec, ...]:
    specs = record[field]
    if len(specs) > MAX_SPECS:
        raise WorldError(
            f"metadata: {field}: expected at most {MAX_SPECS}, found {len(specs)}"
        )
    return tuple(_spec(spec) for spec in specs)


def _spec(spec: Mapping[str, Any]) -> TensorSpec:
    name, shape = spec["name"], spec["shape"]
    if len(name) > MAX_TENSOR_NAME or len(shape) > MAX_RANK:
        raise WorldError(
            f"metadata: tensor {name!r:.80}: expected a name of at most "
            f"{MAX_TENSOR_NAME} characters and {MAX_RANK} dimensions, "
            f"found {len(name)} and {len(shape)}"
        )
    return TensorSpec(
        name=name,
        datatype=DATATYPES[spec["element-type"]],
        shape=tuple(-1 if size < 0 else size for size in shape),
    )
