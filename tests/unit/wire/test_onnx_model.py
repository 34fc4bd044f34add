# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file may be, and what is refused before anything loads it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kedge_wire.onnx_model import (
    MAX_DEPTH,
    MAX_IR,
    MAX_OPSET,
    OnnxModelError,
    read_signature,
)
from kedge_wire.statement import TensorSpec
from tests.simulators.onnx_models import ONNX_TYPES, affine, echo, model, value


def identity(**changes: Any) -> Any:
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        changes.pop("inputs", [value("x")]),
        changes.pop("outputs", [value("y")]),
        **changes,
    )


def external(name: str = "w") -> Any:
    tensor = numpy_helper.from_array(np.zeros(2, dtype=np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def constant(**attribute: Any) -> Any:
    return helper.make_node("Constant", [], ["c"], **attribute)


def sparse(values: Any, indices: Any) -> Any:
    return helper.make_sparse_tensor(values, indices, [4])


def whole(name: str) -> Any:
    return numpy_helper.from_array(np.zeros(2, dtype=np.int64), name)


def nested(depth: int, innermost: Any = None) -> Any:
    """Put a graph with one If into another, `depth` graphs in all."""
    graph = helper.make_graph([], "leaf", [], [])
    if innermost is not None:
        graph.initializer.append(innermost)
    for _ in range(depth - 1):
        node = helper.make_node("If", ["c"], [], then_branch=graph)
        graph = helper.make_graph([node], "branch", [], [])
    proto = identity()
    proto.graph.node.extend(graph.node)
    proto.graph.initializer.extend(graph.initializer)
    return proto


def test_signature_names_inputs_and_outputs_in_order() -> None:
    proto = model(
        [helper.make_node("Concat", ["a", "b"], ["c"], axis=0)],
        [value("b", shape=["N", 3]), value("a", shape=[2, 3])],
        [value("c", shape=["M", 3])],
    )
    signature = read_signature(proto.SerializeToString())
    assert signature.inputs == (
        TensorSpec(name="b", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="a", datatype="FP32", shape=(2, 3)),
    )
    assert signature.outputs == (TensorSpec(name="c", datatype="FP32", shape=(-1, 3)),)
    assert (signature.ir_version, signature.opset) == (10, 21)


def test_every_datatype_of_the_protocol_has_an_element_type() -> None:
    signature = read_signature(echo())
    assert [spec.datatype for spec in signature.inputs] == list(ONNX_TYPES)


def test_initializers_are_not_inputs_even_where_listed_as_such() -> None:
    weight = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "w")
    proto = identity(inputs=[value("x"), value("w")], initializers=[weight])
    assert [i.name for i in read_signature(proto.SerializeToString()).inputs] == ["x"]


def test_scalars_have_no_dimensions() -> None:
    proto = identity(inputs=[value("x", shape=[])])
    assert read_signature(proto.SerializeToString()).inputs[0].shape == ()


def test_the_newest_versions_are_read() -> None:
    proto = identity(ir=MAX_IR, opset=MAX_OPSET)
    assert read_signature(proto.SerializeToString()).opset == MAX_OPSET


def test_a_model_of_other_operators_only_has_operator_set_0() -> None:
    proto = identity()
    proto.opset_import[0].domain = "com.example"
    assert read_signature(proto.SerializeToString()).opset == 0


def test_small_integers_may_take_less_room_than_in_memory() -> None:
    packed = helper.make_tensor("w", TensorProto.INT64, [200], [1] * 200)
    data = identity(initializers=[packed]).SerializeToString()
    assert len(data) < 200 * 8
    read_signature(data)


def test_four_bit_weights_take_half_a_byte() -> None:
    packed = TensorProto(
        name="w", data_type=TensorProto.INT4, dims=[400], raw_data=bytes(200)
    )
    data = identity(initializers=[packed]).SerializeToString()
    assert len(data) < 400
    read_signature(data)


def bytes_of(change: Callable[[Any], object], proto: Any | None = None) -> bytes:
    proto = identity() if proto is None else proto
    change(proto)
    return bytes(proto.SerializeToString())


def drop_shape(proto: Any) -> None:
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def add_function(proto: Any) -> None:
    function = helper.make_function(
        "f", "F", [], ["c"], [constant(value=external())], proto.opset_import
    )
    proto.functions.append(function)


def add_function_default(proto: Any) -> None:
    function = helper.make_function(
        "kedge.test", "g", [], [], [], [helper.make_opsetid("", 21)]
    )
    function.attribute_proto.append(helper.make_attribute("t", external()))
    proto.functions.append(function)


def misspell(proto: Any) -> bytes:
    data: bytes = proto.SerializeToString()
    return data.replace(b"\x01x", b"\x01\xff")


EXTERNAL = "expected its data in the file"
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected 1 to"),
    "text": (b"hello, this is not a model at all", "do not parse"),
    "no graph": (
        bytes_of(lambda p: p.ClearField("graph")),
        "expected a graph, found none",
    ),
    "no format version": (
        bytes_of(lambda p: p.ClearField("ir_version")),
        "IR version 1 to 13, found 0",
    ),
    "format too new": (identity(ir=14).SerializeToString(), "1 to 13, found 14"),
    "operators too new": (identity(opset=27).SerializeToString(), "1 to 26, found 27"),
    "no operator set": (
        bytes_of(lambda p: p.ClearField("opset_import")),
        "none imported",
    ),
    "negative operator set": (
        identity(opset=-1).SerializeToString(),
        "1 to 26, found -1",
    ),
    "name not text": (misspell(identity()), "UTF-8"),
    "external initializer": (
        identity(initializers=[external()]).SerializeToString(),
        EXTERNAL,
    ),
    "external location without entries": (
        bytes_of(
            lambda p: p.graph.initializer[0].ClearField("external_data"),
            identity(initializers=[external()]),
        ),
        EXTERNAL,
    ),
    "external entries without location": (
        bytes_of(
            lambda p: p.graph.initializer[0].ClearField("data_location"),
            identity(initializers=[external()]),
        ),
        EXTERNAL,
    ),
    "external attribute": (
        bytes_of(lambda p: p.graph.node.append(constant(value=external()))),
        EXTERNAL,
    ),
    "external attribute list": (
        bytes_of(lambda p: p.graph.node.append(constant(values=[external()]))),
        EXTERNAL,
    ),
    "external sparse values": (
        bytes_of(
            lambda p: p.graph.sparse_initializer.append(sparse(external(), whole("i")))
        ),
        EXTERNAL,
    ),
    "external sparse indices": (
        bytes_of(
            lambda p: p.graph.sparse_initializer.append(sparse(whole("v"), external()))
        ),
        EXTERNAL,
    ),
    "external sparse attribute": (
        bytes_of(
            lambda p: p.graph.node.append(
                constant(sparse_value=sparse(external(), whole("i")))
            )
        ),
        EXTERNAL,
    ),
    "external in subgraph": (nested(3, external()).SerializeToString(), EXTERNAL),
    "external in function": (bytes_of(add_function), EXTERNAL),
    "external in a function's default": (bytes_of(add_function_default), EXTERNAL),
    "more data than the file": (
        identity(
            initializers=[
                TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**33])
            ]
        ).SerializeToString(),
        "no more data than the file",
    ),
    "many small lies": (
        identity(
            initializers=[
                TensorProto(name=f"w{n}", data_type=TensorProto.FLOAT, dims=[10])
                for n in range(100)
            ]
        ).SerializeToString(),
        "no more data than the file",
    ),
    "negative dimension": (
        identity(
            initializers=[
                TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-4, -4])
            ]
        ).SerializeToString(),
        "none negative",
    ),
    "too many dimensions": (
        identity(
            initializers=[
                TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**62] * 9999)
            ]
        ).SerializeToString(),
        "at most 64 dimensions",
    ),
    "sequence input": (
        identity(
            inputs=[helper.make_tensor_sequence_value_info("x", 1, None)]
        ).SerializeToString(),
        "input 'x': expected a tensor",
    ),
    "bfloat16 input": (
        identity(inputs=[value("x", TensorProto.BFLOAT16)]).SerializeToString(),
        "input 'x': expected an element type",
    ),
    "output without shape": (bytes_of(drop_shape), "output 'y': expected a shape"),
    "two inputs of one name": (
        identity(inputs=[value("x"), value("x")]).SerializeToString(),
        "a name of its own",
    ),
    "input without name": (
        identity(inputs=[value("")]).SerializeToString(),
        "a name of its own",
    ),
    "negative input dimension": (
        identity(inputs=[value("x", shape=[-7])]).SerializeToString(),
        "found -7",
    ),
    "input of too many dimensions": (
        identity(inputs=[value("x", shape=["N"] * 65)]).SerializeToString(),
        "at most 64 dimensions",
    ),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(OnnxModelError, match=message):
        read_signature(data)


def test_too_long_is_refused_before_parsing() -> None:
    with pytest.raises(OnnxModelError, match="expected 1 to 10 bytes, found"):
        read_signature(affine(), max_bytes=10)


def test_truncated_anywhere_is_refused_or_lacks_its_operators() -> None:
    data = affine()
    for end in range(len(data)):
        with pytest.raises(OnnxModelError):
            read_signature(data[:end])


def test_graphs_nested_too_deeply_are_refused() -> None:
    with pytest.raises(OnnxModelError, match="at most 32 graphs inside one another"):
        read_signature(nested(MAX_DEPTH + 1).SerializeToString())


def test_graphs_nested_beyond_what_protobuf_reads_are_refused() -> None:
    data = b""
    for number in [6, 5, 1] * 10_000 + [7]:  # graph in attribute in node in graph
        size = len(data)
        length = b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        data = bytes([number << 3 | 2]) + length + bytes([size]) + data
    with pytest.raises(OnnxModelError, match="nested too deeply"):
        read_signature(data)


def test_graphs_nested_as_deeply_as_allowed_are_read() -> None:
    read_signature(nested(MAX_DEPTH).SerializeToString())


def test_changed_bytes_are_read_or_refused_and_nothing_else() -> None:
    data = bytearray(echo())
    random = np.random.default_rng(1)
    for _ in range(2000):
        changed = bytearray(data)
        for position in random.integers(0, len(data), 3):
            changed[position] = random.integers(0, 256)
        try:
            read_signature(bytes(changed))
        except OnnxModelError:
            continue
