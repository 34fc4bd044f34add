# SPDX-License-Identifier: Apache-2.0
"""Which versions are admitted, and that every refusal names the field."""

import json

import pytest
import wasmtime

from kedge_controlplane.admission.admission import Admission
from kedge_controlplane.blobs.memory import MemoryBlobs
from kedge_controlplane.errors import InvalidError
from kedge_controlplane.model.artifact import Tensor
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.admission.publisher import (
    ANY_IMAGE,
    COMPONENT,
    CONFIG,
    Publisher,
    image_model,
    reference,
    upload,
)


async def refusal(admission: Admission, version: Resource) -> dict[str, str]:
    """Messages by field."""
    with pytest.raises(InvalidError) as caught:
        await admission.admit(version, None)
    assert caught.value.name == version.name
    return {cause.field: cause.message for cause in caught.value.causes}


async def test_an_honest_component_is_admitted(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, COMPONENT)
    version = publisher.component()
    assert await admission.admit(version, None) is version


async def test_an_honest_model_is_admitted(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, image_model())
    await admission.admit(publisher.model(), None)


async def test_an_honest_config_is_admitted(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, json.dumps(CONFIG).encode())
    schema = {"properties": {"width": {"type": "integer"}}, "required": ["layout"]}
    await admission.admit(publisher.config(schema=schema), None)


async def test_a_statement_by_an_unknown_key_is_refused(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, image_model())
    stranger = Publisher()
    causes = await refusal(admission, stranger.model())
    assert list(causes) == ["spec.statement"]
    assert stranger.signer.public_key.keyid[:12] in causes["spec.statement"]
    assert publisher.signer.public_key.keyid[:12] in causes["spec.statement"]


async def test_a_key_of_another_namespace_does_not_count(
    admission: Admission, blobs: MemoryBlobs, store: Store
) -> None:
    await upload(blobs, image_model())
    elsewhere = Publisher()
    key = elsewhere.key()
    key.metadata.namespace = "other"
    await store.create(key)
    causes = await refusal(admission, elsewhere.model())
    assert "no key (none is trusted)" in causes["spec.statement"]


async def test_a_signature_of_another_payload_is_refused(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, image_model())
    version = publisher.model()
    version.spec.statement.payload = publisher.config().spec.statement.payload
    assert "not valid under it" in (await refusal(admission, version))["spec.statement"]


@pytest.mark.parametrize(
    ("member", "lie", "field"),
    [
        ("namespace", "other", "metadata.namespace"),
        ("name", "letters", "spec.model"),
        ("version", "2", "spec.version"),
        ("sha256", "0" * 64, "spec.artifact.sha256"),
        ("length", 7, "spec.artifact.length"),
        ("inputs", (), "spec.inputs"),
        ("outputs", (), "spec.outputs"),
        ("labels", ("one", "zero"), "spec.labels"),
        ("kind", "config", "spec.statement"),
    ],
)
async def test_a_field_that_was_not_signed_is_named(
    admission: Admission,
    blobs: MemoryBlobs,
    publisher: Publisher,
    member: str,
    lie: object,
    field: str,
) -> None:
    await upload(blobs, image_model())
    version = publisher.signed(publisher.model(), **{member: lie})
    assert list(await refusal(admission, version)) == [field]


@pytest.mark.parametrize("payload", ["", "%%%", "bm90IGpzb24="])
async def test_a_payload_that_nobody_signed_is_refused(
    admission: Admission, publisher: Publisher, payload: str
) -> None:
    version = publisher.model()
    version.spec.statement.payload = payload
    assert list(await refusal(admission, version)) == ["spec.statement"]


async def test_the_object_is_named_after_what_it_is_a_version_of(
    admission: Admission, publisher: Publisher
) -> None:
    version = publisher.model()
    version.metadata.name = "latest"
    causes = await refusal(admission, version)
    assert causes == {"metadata.name": "expected digits-1, found latest"}


async def test_bytes_must_have_been_uploaded(
    admission: Admission, publisher: Publisher
) -> None:
    with pytest.raises(InvalidError) as caught:
        await admission.admit(publisher.model(), None)
    (cause,) = caught.value.causes
    assert (cause.reason, cause.field) == ("FieldValueNotFound", "spec.artifact.sha256")
    assert "kedge push" in cause.message


async def test_a_signed_length_must_be_the_length(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    data = image_model()
    await upload(blobs, data)
    version = publisher.model()
    version.spec.artifact.length += 1
    causes = await refusal(admission, publisher.signed(version))
    assert list(causes) == ["spec.artifact.length"]
    assert str(len(data)) in causes["spec.artifact.length"]


async def test_a_config_over_the_limit_is_refused_before_it_is_read(
    admission: Admission, publisher: Publisher
) -> None:
    version = publisher.config(data=b" " * 65_537)
    causes = await refusal(admission, version)
    assert "at most 65536 bytes" in causes["spec.artifact.length"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x7fELF" + bytes(60), "expected WebAssembly, found bytes 7f 45 4c 46"),
        (b"just some text", "expected WebAssembly"),
        (bytes(wasmtime.wat2wasm("(module)")), "found a core module"),
        (COMPONENT[:2000], "expected a valid component"),
        (
            bytes(wasmtime.wat2wasm("(component)")),
            "model-component@0.1.0#preprocess: expected func(",
        ),
        (
            bytes(
                wasmtime.wat2wasm(
                    '(component (import "wasi:http/handler@0.2.0" '
                    '(instance (export "handle" (func)))))'
                )
            ),
            "import wasi:http/handler@0.2.0#handle",
        ),
    ],
    ids=["elf", "text", "core module", "truncated", "no exports", "other imports"],
)
async def test_bytes_that_are_no_component_of_our_world_are_refused(
    admission: Admission,
    blobs: MemoryBlobs,
    publisher: Publisher,
    data: bytes,
    found: str,
) -> None:
    await upload(blobs, data)
    with pytest.raises(InvalidError) as caught:
        await admission.admit(publisher.component(data), None)
    assert {cause.field for cause in caught.value.causes} == {"spec.artifact"}
    assert found in str(caught.value)


async def test_a_component_asks_of_its_model_what_it_says_it_asks(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, COMPONENT)
    version = publisher.component()
    version.spec.model_inputs = [Tensor(datatype="INT8", shape=[-1])]
    causes = await refusal(admission, publisher.signed(version))
    assert list(causes) == ["spec.modelInputs"]
    assert "FP32[?,?,?,?]" in causes["spec.modelInputs"]


@pytest.mark.parametrize("cut", [1, 20, 60], ids=lambda cut: f"{cut} bytes short")
async def test_a_truncated_model_is_refused(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher, cut: int
) -> None:
    data = image_model()[:-cut]
    await upload(blobs, data)
    assert list(await refusal(admission, publisher.model(data))) == ["spec.artifact"]


async def test_a_model_with_data_elsewhere_is_refused(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    data = external_data()
    await upload(blobs, data)
    causes = await refusal(admission, publisher.model(data))
    assert "another file" in causes["spec.artifact"]


async def test_a_model_takes_what_it_says_it_takes(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, image_model())
    version = publisher.model(inputs=[ANY_IMAGE])
    causes = await refusal(admission, version)
    assert list(causes) == ["spec.inputs"]
    assert "image FP32[?,1,8,8]" in causes["spec.inputs"]


@pytest.mark.parametrize(
    ("values", "schema", "field"),
    [
        (
            {"width": "8"},
            {"properties": {"width": {"type": "integer"}}},
            "spec.values.width",
        ),
        (
            {"std": [1, -1]},
            {"properties": {"std": {"items": {"exclusiveMinimum": 0}}}},
            "spec.values.std[1]",
        ),
        ({}, {"required": ["width"]}, "spec.values"),
        ({}, {"type": 3}, "spec.schema"),
        ({}, {"$ref": "https://example.com/schema.json"}, "spec.schema"),
        ({}, {"$schema": "http://json-schema.org/draft-07/schema#"}, "spec.schema"),
    ],
    ids=["wrong type", "in a list", "missing", "no schema", "elsewhere", "old draft"],
)
async def test_a_config_that_its_schema_does_not_allow_is_refused(
    admission: Admission,
    blobs: MemoryBlobs,
    publisher: Publisher,
    values: dict[str, object],
    schema: dict[str, object],
    field: str,
) -> None:
    await upload(blobs, json.dumps(values).encode())
    version = publisher.config(values, schema=schema)
    assert list(await refusal(admission, version)) == [field]


@pytest.mark.parametrize(
    "data",
    [b'{"width": 8.0}', b'{"width": true}', b'{"width": 8, "width": 8}', b"[8]"],
    ids=["a float", "a boolean", "twice", "a list"],
)
async def test_values_are_exactly_the_signed_bytes(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher, data: bytes
) -> None:
    await upload(blobs, data)
    version = publisher.config({"width": 8}, data=data)
    (field,) = await refusal(admission, version)
    assert field in ("spec.values", "spec.artifact")


async def test_a_change_of_labels_alone_is_not_looked_into(
    admission: Admission, publisher: Publisher
) -> None:
    old = publisher.model()
    new = old.model_copy(deep=True)
    new.metadata.labels = {"stage": "test"}
    assert await admission.admit(new, old) is new


async def test_another_digest_than_the_uploaded_one_is_not_found(
    admission: Admission, blobs: MemoryBlobs, publisher: Publisher
) -> None:
    await upload(blobs, image_model())
    version = publisher.model()
    version.spec.artifact = reference(b"something else")
    causes = await refusal(admission, publisher.signed(version))
    assert list(causes) == ["spec.artifact.sha256"]


def external_data() -> bytes:
    from onnx import TensorProto, helper

    from tests.simulators import onnx_models

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../etc/passwd")
    proto = onnx_models.model(
        [helper.make_node("Add", ["image", "w"], ["logits"])],
        [onnx_models.value("image", shape=["N", 4])],
        [onnx_models.value("logits", shape=["N", 4])],
        initializers=[weights],
    )
    return bytes(proto.SerializeToString())
