# SPDX-License-Identifier: Apache-2.0
"""Small ONNX files, each for one question."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

IR: Final = 10
OPSET: Final = 21

ONNX_TYPES: Final[Mapping[str, int]] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

Shape = Sequence[int | str] | None


def value(name: str, datatype: int = TensorProto.FLOAT, shape: Shape = ("N",)) -> Any:
    """Describe an input or output."""
    return helper.make_tensor_value_info(name, datatype, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    *,
    initializers: Sequence[TensorProto] = (),
    ir: int = IR,
    opset: int = OPSET,
) -> Any:
    """Make a ModelProto; tests change it before they serialise it."""
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(initializers))
    return helper.make_model(
        graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)]
    )


def affine() -> bytes:
    """Make y = 2x + 1 over FP32 [N,4]."""
    proto = model(
        [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "one"], ["y"]),
        ],
        [value("x", shape=["N", 4])],
        [value("y", shape=["N", 4])],
        initializers=[
            helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    return bytes(proto.SerializeToString())


def echo(datatypes: Sequence[str] = tuple(ONNX_TYPES)) -> bytes:
    """Make a model that answers each input under the name out_<datatype>."""
    proto = model(
        [helper.make_node("Identity", [f"in_{d}"], [f"out_{d}"]) for d in datatypes],
        [value(f"in_{d}", ONNX_TYPES[d], ["N", "M"]) for d in datatypes],
        [value(f"out_{d}", ONNX_TYPES[d], ["N", "M"]) for d in datatypes],
    )
    return bytes(proto.SerializeToString())


def gather() -> bytes:
    """Make a model that fails on an index beyond 3: a check only the run can make."""
    proto = model(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        [value("index", TensorProto.INT64)],
        [value("y")],
        initializers=[
            helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 1.0, 2.0, 3.0])
        ],
    )
    return bytes(proto.SerializeToString())
