# SPDX-License-Identifier: Apache-2.0
"""Publishes one artifact: look into it, sign what it is, upload it, create its version.

Every step can be repeated: a version that is there with the same content is left alone,
a blob that is there is not sent again. Interrupted anywhere, the server has at most a
blob that nothing names; the same command then completes the work. A version never
changes: other content under the same version is refused before anything is sent.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from kedge_controlplane.admission.claims import Version, object_name, to_tensors
from kedge_controlplane.cli.keyring import SigningKey
from kedge_controlplane.cli.keys import registered_keys
from kedge_controlplane.client import Client, Document
from kedge_controlplane.errors import AlreadyExistsError, InputError
from kedge_controlplane.inspection.artifact import inspect
from kedge_controlplane.inspection.config import canonical, read_object
from kedge_controlplane.model.artifact import ArtifactRef, DsseEnvelope
from kedge_controlplane.model.component_version import (
    ComponentVersion,
    ComponentVersionSpec,
)
from kedge_controlplane.model.configset import ConfigSet, ConfigSetSpec
from kedge_controlplane.model.meta import API_VERSION, ObjectMeta
from kedge_controlplane.model.model_version import ModelVersion, ModelVersionSpec
from kedge_controlplane.model.registry import BY_KIND, Kind, kind_of
from kedge_controlplane.trust.statements import from_wire
from kedge_wire import dsse
from kedge_wire.statement import ArtifactKind, Statement, StatementError

CHUNK: Final = 256 * 1024

Progress = Callable[[int], AbstractContextManager[Callable[[int], object]]]
"""Given the bytes to send, a context whose value is told of bytes sent."""

_PARENTS: Final = {ArtifactKind.COMPONENT: "Component", ArtifactKind.MODEL: "Model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What an operator wants to publish. A component knows its own name and version."""

    kind: ArtifactKind
    source: str  # for messages
    data: bytes
    name: str | None = None
    version: str | None = None
    labels: tuple[str, ...] = ()
    schema: dict[str, Any] = field(default_factory=dict)


def describe(artifact: Artifact, *, namespace: str) -> Statement:
    """Look into an artifact and say what it is.

    Raises:
        InputError: It is not what it should be; each reason is on a line of its own.
    """
    report = inspect(
        artifact.kind, artifact.data, schema=canonical(artifact.schema).encode()
    )
    if report.problems:
        lines = (
            f"  {p.path}: {p.message}" if p.path else f"  {p.message}"
            for p in report.problems
        )
        raise InputError(
            "\n".join([f"{artifact.source}: not a {artifact.kind} to publish:", *lines])
        )
    statement = Statement(
        kind=artifact.kind,
        namespace=namespace,
        name=artifact.name or report.name,
        version=artifact.version or report.version,
        sha256=hashlib.sha256(artifact.data).hexdigest(),
        length=len(artifact.data),
        inputs=report.inputs,
        outputs=report.outputs,
        labels=artifact.labels,
    )
    try:
        return Statement.from_bytes(statement.to_bytes())
    except StatementError as exc:
        raise InputError(f"{artifact.source}: {exc}") from exc


def sign(artifact: Artifact, statement: Statement, key: SigningKey) -> Version:
    """The version to create: the statement, signed, and the fields that repeat it.

    Raises:
        InputError: A name or version that no object can have.
    """
    envelope = dsse.sign(statement.to_bytes(), dsse.ARTIFACT_TYPE, key.signer)
    metadata: dict[str, Any] = {
        "name": object_name(statement),
        "namespace": statement.namespace,
    }
    try:
        return _version(
            artifact,
            statement,
            from_wire(envelope),
            ObjectMeta.model_validate(metadata),
        )
    except ValidationError as exc:
        reasons = "; ".join(str(error["msg"]) for error in exc.errors())
        raise InputError(
            f"{object_name(statement)}: {reasons}",
            advice="Choose another --name or --version.",
        ) from exc


def publish(
    client: Client,
    version: Version,
    data: bytes,
    *,
    key: SigningKey,
    progress: Progress,
) -> str:
    """Upload and create a version; answers `created` or `unchanged`.

    Raises:
        InputError: The server does not believe the key yet.
        AlreadyExistsError: The version is there with other content.
        StatusError: The server refused it.
    """
    kind = kind_of(version)
    artifact = version.spec.artifact
    live = client.find(kind, version.name)
    if live is not None:
        _refuse_other(version, live)
    elif key.keyid not in registered_keys(client):
        raise InputError(
            f"expected namespace {version.namespace} to believe key {key.name} "
            f"({key.keyid[:12]}), found it is not registered",
            advice=f"Register it with `kedge keys register --key {key.name}`.",
        )
    if client.blob_length(artifact.sha256) != artifact.length:
        with progress(artifact.length) as sent:
            chunks = _chunks(data, sent)
            client.put_blob(artifact.sha256, chunks, length=artifact.length)
    if live is not None:
        return "unchanged"
    return _create(client, kind, version)


def ensure_parent(client: Client, statement: Statement) -> None:
    """Create the Model or Component that a version belongs to, where it is missing."""
    parent = _PARENTS.get(statement.kind)
    if parent is None or client.find(BY_KIND[parent], statement.name) is not None:
        return
    document = {
        "apiVersion": API_VERSION,
        "kind": parent,
        "metadata": {"name": statement.name},
        "spec": {},
    }
    try:
        client.create(BY_KIND[parent], document)
    except AlreadyExistsError:
        return  # somebody else was quicker


def _create(client: Client, kind: Kind, version: Version) -> str:
    try:
        client.create(kind, version.to_wire())
    except AlreadyExistsError:
        # Somebody published it meanwhile: the same content is as good as ours.
        _refuse_other(version, client.get(kind, version.name))
        return "unchanged"
    return "created"


def _refuse_other(version: Version, live: Document) -> None:
    ours, theirs = _content(version.to_wire()), _content(live)
    differing = sorted(
        name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)
    )
    if not differing:
        return
    digests = ""
    if "artifact" in differing:
        found = theirs.get("artifact", {}).get("sha256", "none")
        digests = f": expected digest {version.spec.artifact.sha256}, found {found}"
    raise AlreadyExistsError(
        f"{kind_of(version).kind} {version.name} exists with other content "
        f"({', '.join(differing)}){digests}. "
        "A version never changes: push under another --version."
    )


def _content(document: Document) -> Document:
    """The specification less its statement: another key may have signed the same."""
    return {key: value for key, value in document["spec"].items() if key != "statement"}


def _chunks(data: bytes, sent: Callable[[int], object]) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), CHUNK):
        chunk = bytes(view[start : start + CHUNK])
        yield chunk
        sent(len(chunk))


def _version(
    artifact: Artifact,
    statement: Statement,
    envelope: DsseEnvelope,
    metadata: ObjectMeta,
) -> Version:
    reference = ArtifactRef(sha256=statement.sha256, length=statement.length)
    match statement.kind:
        case ArtifactKind.COMPONENT:
            return ComponentVersion(
                metadata=metadata,
                spec=ComponentVersionSpec(
                    component=statement.name,
                    version=statement.version,
                    artifact=reference,
                    statement=envelope,
                    model_inputs=to_tensors(statement.inputs),
                    model_outputs=to_tensors(statement.outputs),
                ),
            )
        case ArtifactKind.MODEL:
            return ModelVersion(
                metadata=metadata,
                spec=ModelVersionSpec(
                    model=statement.name,
                    version=statement.version,
                    artifact=reference,
                    statement=envelope,
                    inputs=to_tensors(statement.inputs),
                    outputs=to_tensors(statement.outputs),
                    labels=list(statement.labels),
                ),
            )
        case ArtifactKind.CONFIG:
            return ConfigSet(
                metadata=metadata,
                spec=ConfigSetSpec(
                    config=statement.name,
                    version=statement.version,
                    artifact=reference,
                    statement=envelope,
                    values=read_object(artifact.data),
                    json_schema=artifact.schema,
                ),
            )
