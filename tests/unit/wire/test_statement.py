# SPDX-License-Identifier: Apache-2.0
"""What a statement may say; whatever else is in it is a StatementError."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from kedge_wire.statement import (
    MAX_INTEGER,
    MAX_RANK,
    MAX_STATEMENT_BYTES,
    MAX_TENSOR_NAME,
    MAX_TENSORS,
    ArtifactKind,
    Statement,
    StatementError,
    TensorSpec,
)

PORT = TensorSpec(name="image", datatype="FP32", shape=(-1, 4))
GOOD = Statement(
    kind=ArtifactKind.MODEL,
    namespace="default",
    name="digits",
    version="1",
    sha256="0" * 64,
    length=5,
    inputs=(PORT,),
    outputs=(PORT,),
    labels=("zero", "één"),
)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(GOOD.to_bytes())
    change(document)
    return json.dumps(document).encode()


def port(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["inputs"][0].update(members)


def member(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(members)


def test_a_statement_reads_back_as_it_was_written() -> None:
    assert Statement.from_bytes(GOOD.to_bytes()) == GOOD


def test_a_statement_at_every_bound_is_read() -> None:
    large = {"name": "n" * MAX_TENSOR_NAME, "datatype": "BYTES"}
    large_ports = [{**large, "shape": [MAX_INTEGER] * MAX_RANK}] * 2
    payload = changed(member(inputs=large_ports, length=MAX_INTEGER))
    assert len(Statement.from_bytes(payload).inputs) == 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(port(datatype=["FP32"]), id="datatype-a-list"),
        pytest.param(port(datatype={}), id="datatype-an-object"),
        pytest.param(port(datatype="FLOAT"), id="datatype-unknown"),
        pytest.param(port(name="\ud800"), id="name-a-lone-surrogate"),
        pytest.param(port(name="n" * (MAX_TENSOR_NAME + 1)), id="name-long"),
        pytest.param(port(name=1), id="name-a-number"),
        pytest.param(port(shape=[1] * (MAX_RANK + 1)), id="rank"),
        pytest.param(port(shape=[-2]), id="dimension-negative"),
        pytest.param(port(shape=[2**63]), id="dimension-huge"),
        pytest.param(port(shape=[True]), id="dimension-a-truth"),
        pytest.param(port(shape="12"), id="shape-text"),
        pytest.param(port(more=1), id="port-unknown-member"),
        pytest.param(member(inputs=[{}] * (MAX_TENSORS + 1)), id="tensors"),
        pytest.param(member(inputs={}), id="inputs-an-object"),
        pytest.param(member(labels=["\udfff"]), id="label-a-lone-surrogate"),
        pytest.param(member(labels=[1]), id="label-a-number"),
        pytest.param(member(kind=["model"]), id="kind-a-list"),
        pytest.param(member(kind="image"), id="kind-unknown"),
        pytest.param(member(length=-1), id="length-negative"),
        pytest.param(member(length=2**64), id="length-huge"),
        pytest.param(member(length=1.5), id="length-no-integer"),
        pytest.param(member(sha256="0" * 63), id="digest-short"),
        pytest.param(member(namespace=["default"]), id="namespace-a-list"),
        pytest.param(member(statement=2), id="another-statement"),
        pytest.param(member(**{"\ud800": 1}), id="member-a-lone-surrogate"),
        pytest.param(lambda document: document.pop("name"), id="no-name"),
    ],
)
def test_a_statement_that_breaks_a_rule_is_refused(
    change: Callable[[dict[str, Any]], object],
) -> None:
    with pytest.raises(StatementError) as caught:
        Statement.from_bytes(changed(change))
    str(caught.value).encode()  # it can be reported


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        GOOD.to_bytes().decode().encode("utf-16"),
        b'{"a": "\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"length": ' + b"9" * 5000 + b"}",
        bytes(MAX_STATEMENT_BYTES + 1),
    ],
    ids=range(9),
)
def test_what_is_no_json_object_in_utf_8_is_refused(payload: bytes) -> None:
    with pytest.raises(StatementError):
        Statement.from_bytes(payload)
