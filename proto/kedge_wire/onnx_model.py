# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file says about itself, read without running or loading it.

The control plane reads it when a model is pushed, the device again before it loads one.
Both are handed bytes by others, so this decides what is refused: files that keep data
elsewhere, that ask for more than they bring, that nest without end, or whose tensors
the Open Inference Protocol cannot carry. It does no I/O and keeps nothing. A file that
passes may still be one that ONNX Runtime refuses, or whose operators make large tensors
out of small ones; that is for the process that runs it to bear.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from kedge_wire.onnx.model_pb2 import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TensorShapeProto,
    ValueInfoProto,
)
from kedge_wire.statement import TensorSpec

MAX_MODEL_BYTES: Final = 2**31 - 1
"""The longest message that protobuf reads."""

MAX_IR: Final = 13
"""The newest file format that ONNX Runtime 1.31 reads."""

MAX_OPSET: Final = 26
"""The newest standard operator set that ONNX Runtime 1.31 runs."""

MAX_DEPTH: Final = 32
"""Graphs inside graphs. Real models nest two or three deep."""

MAX_NODES: Final = 1_000_000
"""Nodes in all graphs. The largest models we know have some ten thousand."""

MAX_RANK: Final = 64
"""Dimensions of one tensor; what NumPy holds."""

_DATATYPES: Final[Mapping[int, str]] = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
}
"""TensorProto.DataType to the protocol's name."""

_LEAST_BITS: Final[Mapping[int, int]] = {
    1: 32,  # FLOAT
    11: 64,  # DOUBLE
    14: 64,  # COMPLEX64
    15: 128,  # COMPLEX128
    21: 4,  # UINT4
    22: 4,  # INT4
    23: 4,  # FLOAT4E2M1
    25: 2,  # UINT2
    26: 2,  # INT2
}
"""The least that an element takes in a file. Any other is at least a byte: a small
integer may be written as a variable-length number, whatever its size in memory."""


class OnnxModelError(Exception):
    """Not an ONNX model that Kedge accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSignature:
    """What a model takes and answers, and which runtime it asks for.

    `opset` is that of the standard operators, 0 where the model imports none.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ir_version: int
    opset: int


def read_signature(model: bytes, *, max_bytes: int = MAX_MODEL_BYTES) -> ModelSignature:
    """Read the signature of an ONNX file.

    Args:
        model: The file.
        max_bytes: Refuse longer files before parsing; parsing takes a multiple of this
            in memory.

    Raises:
        OnnxModelError: Empty, too long, truncated, not ONNX, too new, or not acceptable
            in one of the ways that this module's docstring names.
    """
    if not 0 < len(model) <= max_bytes:
        raise OnnxModelError(
            f"model: expected 1 to {max_bytes} bytes, found {len(model)}"
        )
    try:
        return _signature(ModelProto.FromString(model), len(model))
    except DecodeError as exc:
        raise OnnxModelError(
            "model: expected an ONNX file, found bytes that do not parse as one: "
            "truncated, nested too deeply, or something else"
        ) from exc
    except UnicodeDecodeError as exc:
        raise OnnxModelError("model: expected names in UTF-8") from exc


def _signature(model: ModelProto, length: int) -> ModelSignature:
    if not model.HasField("graph"):
        raise OnnxModelError("model: expected a graph, found none")
    opset = _checked_versions(model)
    _Walk(length).model(model)
    graph = model.graph
    filled = {tensor.name for tensor in graph.initializer}
    filled.update(sparse.values.name for sparse in graph.sparse_initializer)
    return ModelSignature(
        inputs=_specs("input", (v for v in graph.input if v.name not in filled)),
        outputs=_specs("output", graph.output),
        ir_version=model.ir_version,
        opset=opset,
    )


def _checked_versions(model: ModelProto) -> int:
    if not 0 < model.ir_version <= MAX_IR:
        raise OnnxModelError(
            f"model: expected IR version 1 to {MAX_IR}, found {model.ir_version}"
        )
    if not model.opset_import:
        raise OnnxModelError("model: expected an operator set, found none imported")
    opset = max(
        (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        default=0,
    )
    if not 0 <= opset <= MAX_OPSET:
        raise OnnxModelError(
            f"model: expected operator set 1 to {MAX_OPSET}, found {opset}"
        )
    return opset


class _Walk:
    """One pass over everything in a model that can hold a tensor."""

    def __init__(self, length: int) -> None:
        self._bits_left = length * 8
        self._nodes_left = MAX_NODES

    def model(self, model: ModelProto) -> None:
        self._graph(model.graph, depth=1)
        for function in model.functions:
            self._nodes(function.node, depth=1)
            for attribute in function.attribute_proto:
                self._attribute(attribute, depth=1)

    def _graph(self, graph: GraphProto, *, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise OnnxModelError(
                f"model: expected at most {MAX_DEPTH} graphs inside one another"
            )
        for tensor in graph.initializer:
            self._tensor(tensor)
        for sparse in graph.sparse_initializer:
            self._sparse(sparse)
        self._nodes(graph.node, depth=depth)

    def _nodes(self, nodes: Iterable[NodeProto], *, depth: int) -> None:
        for node in nodes:
            self._nodes_left -= 1
            if self._nodes_left < 0:
                raise OnnxModelError(f"model: expected at most {MAX_NODES} nodes")
            for attribute in node.attribute:
                self._attribute(attribute, depth=depth)

    def _attribute(self, attribute: AttributeProto, *, depth: int) -> None:
        if attribute.HasField("t"):
            self._tensor(attribute.t)
        for tensor in attribute.tensors:
            self._tensor(tensor)
        if attribute.HasField("sparse_tensor"):
            self._sparse(attribute.sparse_tensor)
        for sparse in attribute.sparse_tensors:
            self._sparse(sparse)
        if attribute.HasField("g"):
            self._graph(attribute.g, depth=depth + 1)
        for graph in attribute.graphs:
            self._graph(graph, depth=depth + 1)

    def _sparse(self, sparse: SparseTensorProto) -> None:
        self._tensor(sparse.values)
        self._tensor(sparse.indices)

    def _tensor(self, tensor: TensorProto) -> None:
        if tensor.external_data or tensor.data_location != 0:
            raise OnnxModelError(
                f"tensor {tensor.name!r:.80}: expected its data in the file, "
                "found a reference to another file"
            )
        if len(tensor.dims) > MAX_RANK or any(dim < 0 for dim in tensor.dims):
            raise OnnxModelError(
                f"tensor {tensor.name!r:.80}: expected at most {MAX_RANK} dimensions, "
                f"none negative, found {len(tensor.dims)}: {list(tensor.dims[:8])}"
            )
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        # A sparse tensor without values is left out of the file altogether.
        if tensor.data_type:
            self._bits_left -= elements * _LEAST_BITS.get(tensor.data_type, 8)
        if self._bits_left < 0:
            raise OnnxModelError(
                f"tensor {tensor.name!r:.80}: expected no more data than the file has, "
                f"found {elements} elements declared"
            )


def _specs(side: str, values: Iterable[ValueInfoProto]) -> tuple[TensorSpec, ...]:
    specs: dict[str, TensorSpec] = {}
    for value in values:
        # protobuf hands out text that is not UTF-8 as bytes, or raises where it has no
        # compiled part.
        name: object = value.name
        if not isinstance(name, str):
            raise OnnxModelError(
                f"{side}: expected a name in UTF-8, found {name!r:.80}"
            )
        if not name or name in specs:
            raise OnnxModelError(
                f"{side}: expected a name of its own for each, found {name!r:.80}"
            )
        specs[name] = _spec(side, value)
    return tuple(specs.values())


def _spec(side: str, value: ValueInfoProto) -> TensorSpec:
    what = f"{side} {value.name!r:.80}"
    if not value.type.HasField("tensor_type"):
        raise OnnxModelError(f"{what}: expected a tensor, found another type")
    tensor = value.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type)
    if datatype is None:
        raise OnnxModelError(
            f"{what}: expected an element type that the Open Inference Protocol has "
            f"({', '.join(_DATATYPES.values())}), found ONNX type {tensor.elem_type}"
        )
    if not tensor.HasField("shape"):
        raise OnnxModelError(
            f"{what}: expected a shape, found none (onnx.shape_inference adds it)"
        )
    shape = tuple(_dimension(what, dim) for dim in tensor.shape.dim)
    if len(shape) > MAX_RANK:
        raise OnnxModelError(
            f"{what}: expected at most {MAX_RANK} dimensions, found {len(shape)}"
        )
    return TensorSpec(name=value.name, datatype=datatype, shape=shape)


def _dimension(what: str, dim: TensorShapeProto.Dimension) -> int:
    if not dim.HasField("dim_value"):
        return -1
    if dim.dim_value < -1:
        raise OnnxModelError(
            f"{what}: expected dimensions of 0 or more, found {dim.dim_value}"
        )
    return dim.dim_value
