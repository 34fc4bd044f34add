# SPDX-License-Identifier: Apache-2.0
"""From a fleet's template to a TemplateVersion: every reference resolved to a digest.

The name is the fleet's with a hash of the content, so the same template gives the same
TemplateVersion however often it is resolved, and going back to an earlier one finds it
again.
"""

from hashlib import sha256
from typing import Final, TypeVar

import orjson

from kedge_controlplane.errors import NotFoundError, PermanentError
from kedge_controlplane.model.artifact import ArtifactRef, DsseEnvelope
from kedge_controlplane.model.component_version import ComponentVersion
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import (
    API_VERSION,
    MAX_NAME,
    ObjectMeta,
    OwnerReference,
    Resource,
)
from kedge_controlplane.model.model_version import ModelVersion
from kedge_controlplane.model.release import Release, ReleaseWorkload
from kedge_controlplane.model.template_version import (
    ResolvedArtifact,
    ResolvedWorkload,
    TemplateVersion,
    TemplateVersionSpec,
)
from kedge_controlplane.store.store import Store

T = TypeVar("T", bound=Resource)

SUFFIX_ROOM: Final = 12
"""Characters that TemplateVersions and Rollouts add to their fleet's name."""


async def resolve(store: Store, fleet: Fleet) -> TemplateVersion:
    """Build the TemplateVersion that the fleet's template stands for; writes nothing.

    Raises:
        PermanentError: A reference is dangling, or the fleet's name is too long.
    """
    if len(fleet.name) > MAX_NAME - SUFFIX_ROOM:
        raise PermanentError(
            f"fleet: expected a name of at most {MAX_NAME - SUFFIX_ROOM} characters, "
            f"found {len(fleet.name)}"
        )
    template = fleet.spec.template.spec
    release = await _get(store, Release, fleet.namespace, template.release)
    spec = TemplateVersionSpec(
        fleet=fleet.name,
        release=release.name,
        workloads=[
            await _workload(store, fleet.namespace, workload)
            for workload in release.spec.workloads
        ],
        inference=template.inference,
        limits=template.limits,
    )
    content = orjson.dumps(spec.to_wire(), option=orjson.OPT_SORT_KEYS)
    return TemplateVersion(
        metadata=ObjectMeta(
            name=f"{fleet.name}-{sha256(content).hexdigest()[:8]}",
            namespace=fleet.namespace,
            owner_references=[owner_reference(fleet)],
        ),
        spec=spec,
    )


def owner_reference(fleet: Fleet) -> OwnerReference:
    """Say that an object was made for `fleet`."""
    return OwnerReference(
        api_version=API_VERSION,
        kind=fleet.kind,
        name=fleet.name,
        uid=fleet.metadata.uid or "",
        controller=True,
    )


async def _workload(
    store: Store, namespace: str, workload: ReleaseWorkload
) -> ResolvedWorkload:
    component = await _get(store, ComponentVersion, namespace, workload.component)
    model = await _get(store, ModelVersion, namespace, workload.model)
    config = await _get(store, ConfigSet, namespace, workload.config)
    return ResolvedWorkload(
        name=workload.name,
        tenant=namespace,
        component=_artifact(
            component.spec.component,
            component.spec.version,
            component.spec.artifact,
            component.spec.statement,
        ),
        model=_artifact(
            model.spec.model,
            model.spec.version,
            model.spec.artifact,
            model.spec.statement,
        ),
        config=_artifact(
            config.spec.config,
            config.spec.version,
            config.spec.artifact,
            config.spec.statement,
        ),
    )


def _artifact(
    name: str, version: str, artifact: ArtifactRef, statement: DsseEnvelope
) -> ResolvedArtifact:
    return ResolvedArtifact(
        name=name, version=version, artifact=artifact, statement=statement
    )


async def _get(store: Store, cls: type[T], namespace: str, name: str) -> T:
    try:
        return await store.get(cls, namespace, name)
    except NotFoundError as exc:
        raise PermanentError(
            f"expected {cls.__name__} {name}, found none in namespace {namespace}"
        ) from exc
