# SPDX-License-Identifier: Apache-2.0
"""A publisher for tests: signs as an honest one does, unless told otherwise."""

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from onnx import helper
from securesystemslib.signer._crypto_signer import CryptoSigner

from kedge_controlplane.admission.claims import claim
from kedge_controlplane.blobs.base import BlobStore
from kedge_controlplane.model.artifact import ArtifactRef, DsseEnvelope, Tensor
from kedge_controlplane.model.component_version import (
    ComponentVersion,
    ComponentVersionSpec,
)
from kedge_controlplane.model.configset import ConfigSet, ConfigSetSpec
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.model.model_version import ModelVersion, ModelVersionSpec
from kedge_controlplane.model.publisher import PublisherKey
from kedge_controlplane.trust.statements import from_wire
from kedge_wire import dsse
from tests.simulators import onnx_models

V = TypeVar("V", ComponentVersion, ModelVersion, ConfigSet)

ROOT: Final = Path(__file__).parents[4]
COMPONENT: Final = (
    ROOT / "wit/components/image-classifier/image-classifier.wasm"
).read_bytes()
ANY_IMAGE: Final = Tensor(datatype="FP32", shape=[-1, -1, -1, -1])
ANY_SCORES: Final = Tensor(datatype="FP32", shape=[-1, -1])
CONFIG: Final = {"width": 8, "layout": "NCHW", "scale": 0.0625}

_UNSIGNED: Final = DsseEnvelope.model_construct(
    payload_type=dsse.ARTIFACT_TYPE, payload="", signatures=[]
)


def image_model(*, name: str = "image", rank: int = 4) -> bytes:
    """A model that the image classifier fits where `rank` is 4."""
    shape: list[int | str] = ["N", *([1, 8, 8][: rank - 1])]
    proto = onnx_models.model(
        [helper.make_node("Flatten", [name], ["logits"])],
        [onnx_models.value(name, shape=shape)],
        [onnx_models.value("logits", shape=["N", 64])],
    )
    return bytes(proto.SerializeToString())


class Publisher:
    """One key; versions in namespace `default`."""

    def __init__(self) -> None:
        self.signer = CryptoSigner.generate_ed25519()

    def key(self, **changes: Any) -> PublisherKey:
        key = self.signer.public_key
        spec = {
            "keyid": key.keyid,
            "keytype": key.keytype,
            "scheme": key.scheme,
            "public": key.keyval["public"],
        }
        return PublisherKey.model_validate(
            {
                "metadata": {"name": f"key-{key.keyid[:8]}", "namespace": "default"},
                "spec": spec | changes,
            }
        )

    def component(
        self, data: bytes = COMPONENT, version: str = "1"
    ) -> ComponentVersion:
        return self.signed(
            ComponentVersion(
                metadata=_metadata("classifier", version),
                spec=ComponentVersionSpec(
                    component="classifier",
                    version=version,
                    artifact=reference(data),
                    statement=_UNSIGNED,
                    model_inputs=[ANY_IMAGE],
                    model_outputs=[ANY_SCORES],
                ),
            )
        )

    def model(
        self, data: bytes | None = None, *, inputs: list[Tensor] | None = None
    ) -> ModelVersion:
        default = [Tensor(name="image", datatype="FP32", shape=[-1, 1, 8, 8])]
        return self.signed(
            ModelVersion(
                metadata=_metadata("digits", "1"),
                spec=ModelVersionSpec(
                    model="digits",
                    version="1",
                    artifact=reference(image_model() if data is None else data),
                    statement=_UNSIGNED,
                    inputs=default if inputs is None else inputs,
                    outputs=[Tensor(name="logits", datatype="FP32", shape=[-1, 64])],
                    labels=["zero", "one"],
                ),
            )
        )

    def config(
        self,
        values: dict[str, Any] | None = None,
        *,
        data: bytes | None = None,
        schema: dict[str, Any] | None = None,
    ) -> ConfigSet:
        chosen = CONFIG if values is None else values
        return self.signed(
            ConfigSet(
                metadata=_metadata("digits", "1"),
                spec=ConfigSetSpec(
                    config="digits",
                    version="1",
                    artifact=reference(
                        json.dumps(chosen).encode() if data is None else data
                    ),
                    statement=_UNSIGNED,
                    values=chosen,
                    json_schema=schema or {},
                ),
            )
        )

    def signed(self, version: V, /, **lies: Any) -> V:
        """Sign what the version says, or something else where `lies` say so."""
        statement = replace(claim(version), **lies)
        envelope = dsse.sign(statement.to_bytes(), dsse.ARTIFACT_TYPE, self.signer)
        version.spec.statement = from_wire(envelope)
        return version


def reference(data: bytes) -> ArtifactRef:
    return ArtifactRef(sha256=hashlib.sha256(data).hexdigest(), length=len(data))


async def upload(blobs: BlobStore, data: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield data

    await blobs.put(hashlib.sha256(data).hexdigest(), chunks(), length=len(data))


def _metadata(name: str, version: str) -> ObjectMeta:
    return ObjectMeta.model_validate(
        {"name": f"{name}-{version}", "namespace": "default"}
    )
