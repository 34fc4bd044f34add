# SPDX-License-Identifier: Apache-2.0
"""EnrollmentRequest: a device asks for a certificate, and what became of it."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from kedge_controlplane.model.meta import Condition, KedgeModel, Labels, Resource


class EnrollmentPhase(StrEnum):
    PENDING = "Pending"
    APPROVED = "Approved"
    DENIED = "Denied"


class EnrollmentRequestSpec(KedgeModel):
    csr: str = Field(
        max_length=8192, description="PKCS #10, PEM. Its subject is ignored."
    )
    hostname: str = Field("", max_length=253)
    architecture: str = Field("", max_length=64)
    operating_system: str = Field("", max_length=128)
    cpus: int = Field(0, ge=0, le=4096)
    memory_bytes: int = Field(0, ge=0)


class EnrollmentRequestStatus(KedgeModel):
    phase: EnrollmentPhase = EnrollmentPhase.PENDING
    device: str = Field("", description="Name the server chose: d-<16 hex>.")
    certificate: str = Field("", description="PEM, leaf first.")
    labels: Labels = Field(default_factory=dict, description="From the token.")
    conditions: list[Condition] = Field(default_factory=list)


class EnrollmentRequest(Resource):
    """A device asks to join. A one-time token approves it at once."""

    kind: Literal["EnrollmentRequest"] = "EnrollmentRequest"
    spec: EnrollmentRequestSpec
    status: EnrollmentRequestStatus = Field(default_factory=EnrollmentRequestStatus)
