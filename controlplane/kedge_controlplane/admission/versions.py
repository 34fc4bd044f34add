# SPDX-License-Identifier: Apache-2.0
"""Admits versions of components, models and configuration.

In this order, and no step believes what an earlier one refused: the object's name; the
statement's signature; every field against the statement; the uploaded bytes against
digest and length; the bytes themselves. The blob store verified the digest when the
bytes came in.
"""

from typing import Any

from kedge_controlplane.admission.causes import invalid, missing
from kedge_controlplane.admission.claims import (
    Version,
    claim,
    differences,
    object_name,
    path_of,
)
from kedge_controlplane.admission.statements import verified_statement
from kedge_controlplane.blobs.base import Blob, BlobStore
from kedge_controlplane.errors import Cause, NotFoundError, TrustError
from kedge_controlplane.inspection.config import (
    SCHEMA,
    ConfigError,
    canonical,
    read_object,
)
from kedge_controlplane.inspection.inspector import Inspector
from kedge_controlplane.inspection.limits import MAX_BYTES
from kedge_controlplane.inspection.report import Report
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.publisher import PublisherKey
from kedge_controlplane.store.store import Store
from kedge_wire.statement import ArtifactKind, Statement, TensorSpec


class VersionAdmission:
    """Holds what checking a version needs: keys, bytes and an inspector."""

    def __init__(self, *, store: Store, blobs: BlobStore, inspector: Inspector) -> None:
        self._store = store
        self._blobs = blobs
        self._inspector = inspector

    async def check(self, version: Version) -> list[Cause]:
        """Say why `version` cannot be stored; empty where it can."""
        claimed = claim(version)
        causes = _named(version, claimed) or await self._signed(version, claimed)
        if causes or (causes := _sized(claimed)):
            return causes
        try:
            blob = await self._blobs.open(claimed.sha256)
        except NotFoundError:
            return [_not_uploaded(claimed)]
        if blob.size != claimed.length:
            text = f"expected {blob.size}, as uploaded, found {claimed.length}"
            return [invalid("spec.artifact.length", text)]
        return await self._looked_into(version, claimed, blob)

    async def _signed(self, version: Version, claimed: Statement) -> list[Cause]:
        keys = await self._store.list(PublisherKey, namespace=version.namespace)
        try:
            signed = verified_statement(
                version.spec.statement, keys.items, what=str(claimed)
            )
        except TrustError as exc:
            return [invalid("spec.statement", str(exc))]
        return differences(claimed, signed)

    async def _looked_into(
        self, version: Version, claimed: Statement, blob: Blob
    ) -> list[Cause]:
        schema: dict[str, Any] = {}
        if isinstance(version, ConfigSet):
            schema = version.spec.json_schema
            text = b"".join([chunk async for chunk in blob.read(0, blob.size)])
            if causes := _same_values(version, text):
                return causes
        report = await self._inspector.inspect(
            claimed.kind, blob.read(0, blob.size), schema=canonical(schema).encode()
        )
        return _problems(claimed.kind, report) or _same_tensors(claimed, report)


def _named(version: Version, claimed: Statement) -> list[Cause]:
    expected = object_name(claimed)
    if version.name == expected:
        return []
    return [invalid("metadata.name", f"expected {expected}, found {version.name}")]


def _sized(claimed: Statement) -> list[Cause]:
    limit = MAX_BYTES[claimed.kind]
    if claimed.length <= limit:
        return []
    text = (
        f"expected at most {limit} bytes for a {claimed.kind}, found {claimed.length}"
    )
    return [invalid("spec.artifact.length", text)]


def _not_uploaded(claimed: Statement) -> Cause:
    return missing(
        "spec.artifact.sha256",
        f"expected uploaded bytes of digest {claimed.sha256}, found none: "
        f"PUT /blobs/sha256/{claimed.sha256} first, or use `kedge push`",
    )


def _same_values(version: ConfigSet, text: bytes) -> list[Cause]:
    try:
        values = read_object(text)
    except ConfigError as exc:
        return [invalid("spec.artifact", str(exc))]
    if canonical(values) != canonical(version.spec.values):
        return [
            invalid("spec.values", "expected exactly the signed artifact's members")
        ]
    return []


def _problems(kind: ArtifactKind, report: Report) -> list[Cause]:
    return [invalid(_field(kind, p.path), p.message) for p in report.problems]


def _field(kind: ArtifactKind, path: str) -> str:
    if kind is not ArtifactKind.CONFIG:
        return "spec.artifact"
    if path == SCHEMA:
        return "spec.schema"
    separator = "" if path.startswith("[") or not path else "."
    return f"spec.values{separator}{path}"


def _same_tensors(claimed: Statement, report: Report) -> list[Cause]:
    if claimed.kind is ArtifactKind.CONFIG:
        return []
    return [
        invalid(
            path_of(side, claimed.kind),
            f"expected {_listed(found)} as the {claimed.kind} has, "
            f"found {_listed(stated)}",
        )
        for side, stated, found in (
            ("inputs", claimed.inputs, report.inputs),
            ("outputs", claimed.outputs, report.outputs),
        )
        if stated != found
    ]


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return f"[{', '.join(map(str, specs)):.400}]"
