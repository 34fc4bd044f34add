# SPDX-License-Identifier: Apache-2.0
"""What versions of components, models and configuration have in common."""

from pydantic import Field

from kedge_controlplane.model.meta import KedgeModel


class ArtifactRef(KedgeModel):
    """Immutable bytes in the blob store."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the bytes.")
    length: int = Field(ge=0, description="Bytes.")


class DsseSignature(KedgeModel):
    keyid: str = Field(max_length=128)
    sig: str = Field(max_length=4096, description="Base64.")


class DsseEnvelope(KedgeModel):
    """The publisher's signed statement about the artifact, in DSSE's JSON form."""

    payload_type: str
    payload: str = Field(max_length=512 * 1024, description="Base64.")
    signatures: list[DsseSignature] = Field(min_length=1, max_length=8)


class Tensor(KedgeModel):
    """As in the Open Inference Protocol; -1 is any size, no name any name."""

    name: str = ""
    datatype: str
    shape: list[int]
