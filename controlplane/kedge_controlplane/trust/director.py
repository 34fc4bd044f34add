# SPDX-License-Identifier: Apache-2.0
"""The director: signs the one order that says what a device runs.

Its ed25519 key is made at the first start and never leaves the trust folder. An order
is built from a TemplateVersion alone, whose references are digests with their
publishers' statements: the director adds who, when and in which order, never what the
bytes are. The object is immutable.
"""

from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer._crypto_signer import CryptoSigner

from kedge_controlplane.errors import TrustError
from kedge_controlplane.model.quantity import parse_bytes, parse_duration
from kedge_controlplane.model.template_version import (
    ResolvedArtifact,
    ResolvedWorkload,
    TemplateVersion,
)
from kedge_controlplane.trust.files import read_or_create
from kedge_controlplane.trust.statements import to_wire
from kedge_wire import dsse
from kedge_wire.v1.order_pb2 import (
    Artifact,
    Envelope,
    InferencePolicy,
    Limits,
    Order,
    Workload,
)

ORDER_LIFE: Final = timedelta(hours=24)
MAX_ORDER_BYTES: Final = 256 * 1024
"""Devices refuse longer ones before they parse."""


class Director:
    """Signs orders."""

    def __init__(self, signer: CryptoSigner) -> None:
        self._signer = signer

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Load the key from `folder`, or make it.

        Raises:
            TrustError: The file is not an ed25519 key.
        """
        pem = read_or_create(
            folder / "director.key",
            lambda: CryptoSigner.generate_ed25519().private_bytes,
        )
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as exc:
            raise TrustError("director.key: expected a private key in PEM") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError("director.key: expected an ed25519 key")
        return cls(CryptoSigner(key))

    @property
    def public_keys(self) -> list[dict[str, Any]]:
        """What devices are enrolled with: securesystemslib's form, with the key id."""
        key = self._signer.public_key
        return [{"keyid": key.keyid, **key.to_dict()}]

    def sign_order(
        self,
        *,
        device: str,
        namespace: str,
        generation: int,
        template: TemplateVersion | None,
        now: datetime,
    ) -> Envelope:
        """Sign the desired state of one device; without a template it runs nothing.

        Raises:
            TrustError: The template's statements do not decode, a number of it is out
            of range, or the order is too long.
        """
        try:
            order = Order(device=device, tenant=namespace, generation=generation)
            order.issued.FromDatetime(now)
            order.expires.FromDatetime(now + ORDER_LIFE)
            if template is not None:
                order.template_version = template.name
                order.workloads.extend(
                    _workload(workload, template)
                    for workload in template.spec.workloads
                )
        except (ValueError, OverflowError) as exc:
            raise TrustError(
                f"order of {namespace}/{device}: expected numbers within their "
                f"bounds: {exc}"
            ) from exc
        payload = order.SerializeToString(deterministic=True)
        if len(payload) > MAX_ORDER_BYTES:
            raise TrustError(
                f"order of {namespace}/{device}: expected at most {MAX_ORDER_BYTES} "
                f"bytes, found {len(payload)}; use fewer workloads or labels"
            )
        return dsse.sign(payload, dsse.ORDER_TYPE, self._signer)


def content_digest(envelope: Envelope) -> str:
    """Hash what an order of ours says, without its generation and times."""
    order = Order.FromString(envelope.payload)
    for member in ("generation", "issued", "expires"):
        order.ClearField(member)
    return sha256(order.SerializeToString(deterministic=True)).hexdigest()


def _workload(workload: ResolvedWorkload, template: TemplateVersion) -> Workload:
    inference, limits = template.spec.inference, template.spec.limits
    wall_time = parse_duration(limits.wall_time)
    return Workload(
        name=workload.name,
        tenant=workload.tenant,
        component=_artifact(Artifact.KIND_COMPONENT, workload.component),
        model=_artifact(Artifact.KIND_MODEL, workload.model),
        config=_artifact(Artifact.KIND_CONFIG, workload.config),
        inference=InferencePolicy(
            providers=inference.providers,
            require_providers=inference.require_providers,
        ),
        limits=Limits(
            component_memory_bytes=parse_bytes(limits.component_memory_limit),
            wall_time_ms=wall_time // timedelta(milliseconds=1),
            pool_size=limits.pool_size,
            warmup_iterations=limits.warmup_iterations,
        ),
    )


def _artifact(kind: Artifact.Kind.ValueType, resolved: ResolvedArtifact) -> Artifact:
    return Artifact(
        kind=kind,
        name=resolved.name,
        version=resolved.version,
        sha256=resolved.artifact.sha256,
        length=resolved.artifact.length,
        statement=to_wire(
            resolved.statement, what=f"{resolved.name}@{resolved.version}"
        ),
    )
