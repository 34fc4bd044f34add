# SPDX-License-Identifier: Apache-2.0
"""Parts of a real control plane for tests: a migrated store, artifacts, devices.

Artifacts are signed statements about bytes that nobody has: enough for whoever resolves
and signs, not for a device that fetches.
"""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from kedge_controlplane.model.artifact import (
    ArtifactRef,
    DsseEnvelope,
    DsseSignature,
    Tensor,
)
from kedge_controlplane.model.component_version import (
    ComponentVersion,
    ComponentVersionSpec,
)
from kedge_controlplane.model.configset import ConfigSet, ConfigSetSpec
from kedge_controlplane.model.enrollment import (
    EnrollmentRequest,
    EnrollmentRequestSpec,
)
from kedge_controlplane.model.fleet import (
    Fleet,
    FleetSpec,
    RolloutPolicy,
    Template,
    TemplateSpec,
)
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.model.model_version import ModelVersion, ModelVersionSpec
from kedge_controlplane.model.release import Release, ReleaseSpec, ReleaseWorkload
from kedge_controlplane.model.selector import LabelSelector
from kedge_controlplane.store import tokens
from kedge_controlplane.store.migrate import upgrade
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority
from kedge_controlplane.trust.enrolment import Enrolment
from kedge_controlplane.trust.tokens import Purpose, new_token, read_token
from tests.simulators.enrolled_device import Identity, csr_pem, key_pem, new_key

NAMESPACE: Final = "default"
START: Final = datetime(2030, 1, 1, tzinfo=UTC)

_TENSOR: Final = Tensor(name="image", datatype="FP32", shape=[-1, 1, 8, 8])


@asynccontextmanager
async def migrated_store(folder: Path) -> AsyncIterator[Store]:
    """Open a store of its own."""
    url = f"sqlite+aiosqlite:///{folder / 'kedge.db'}"
    await upgrade(url)
    store = await Store.open(url)
    try:
        yield store
    finally:
        await store.close()


def artifact(name: str) -> tuple[ArtifactRef, DsseEnvelope]:
    reference = ArtifactRef(sha256=sha256(name.encode()).hexdigest(), length=100)
    statement = DsseEnvelope(
        payload_type="application/vnd.kedge.artifact.v1+json",
        payload=base64.b64encode(name.encode()).decode(),
        signatures=[
            DsseSignature(keyid="ab", sig=base64.b64encode(b"signature").decode())
        ],
    )
    return reference, statement


def named(name: str, labels: Mapping[str, str] | None = None) -> ObjectMeta:
    return ObjectMeta(name=name, namespace=NAMESPACE, labels=dict(labels or {}))


async def release(store: Store, version: str) -> str:
    """Store a release with everything that it refers to; return its name."""
    component, component_statement = artifact(f"component-{version}")
    model, model_statement = artifact(f"model-{version}")
    config, config_statement = artifact(f"config-{version}")
    await store.create(
        ComponentVersion(
            metadata=named(f"classifier-{version}"),
            spec=ComponentVersionSpec(
                component="classifier",
                version=version,
                artifact=component,
                statement=component_statement,
                model_inputs=[_TENSOR],
                model_outputs=[],
            ),
        )
    )
    await store.create(
        ModelVersion(
            metadata=named(f"digits-{version}"),
            spec=ModelVersionSpec(
                model="digits",
                version=version,
                artifact=model,
                statement=model_statement,
                inputs=[_TENSOR],
                outputs=[],
            ),
        )
    )
    await store.create(
        ConfigSet(
            metadata=named(f"digits-config-{version}"),
            spec=ConfigSetSpec(
                config="digits-config",
                version=version,
                artifact=config,
                statement=config_statement,
                values={},
            ),
        )
    )
    workload = ReleaseWorkload(
        name="digits",
        component=f"classifier-{version}",
        model=f"digits-{version}",
        config=f"digits-config-{version}",
    )
    name = f"digits-r{version}"
    await store.create(
        Release(metadata=named(name), spec=ReleaseSpec(workloads=[workload]))
    )
    return name


def fleet(
    name: str,
    release_name: str,
    *,
    labels: Mapping[str, str] | None = None,
    policy: RolloutPolicy | None = None,
) -> Fleet:
    return Fleet(
        metadata=named(name),
        spec=FleetSpec(
            selector=LabelSelector(match_labels=dict(labels or {})),
            template=Template(spec=TemplateSpec(release=release_name)),
            rollout_policy=policy or RolloutPolicy(),
        ),
    )


async def enrolment_token(
    store: Store,
    *,
    labels: Mapping[str, str] | None = None,
    life: timedelta = timedelta(hours=1),
    now: datetime = START,
) -> str:
    """Store a one-time token; return its text."""
    text = new_token(Purpose.ENROLMENT)
    presented = read_token(text)
    row = tokens.Token(
        id=presented.id,
        namespace=NAMESPACE,
        purpose=Purpose.ENROLMENT,
        secret_sha256=presented.secret_sha256,
        user="",
        labels=dict(labels or {}),
        expires=now + life,
        created=now,
    )
    await store.write(lambda transaction: tokens.add(transaction, row))
    return text


def enrolment_request(csr: str) -> EnrollmentRequest:
    return EnrollmentRequest(
        metadata=ObjectMeta(namespace=NAMESPACE, generate_name="er-"),
        spec=EnrollmentRequestSpec(csr=csr, hostname="sim", cpus=2),
    )


async def enrol(
    store: Store,
    authority: CertificateAuthority,
    *,
    labels: Mapping[str, str] | None = None,
) -> Identity:
    """Enrol a new device as a device does."""
    now = datetime.now(UTC)  # TLS looks at the real clock
    token = await enrolment_token(store, labels=labels, now=now)
    key = new_key()
    enrolment = Enrolment(store=store, authority=authority, now=lambda: now)
    answer = await enrolment.enrol(enrolment_request(csr_pem(key)), token)
    return Identity(
        namespace=NAMESPACE,
        device=answer.status.device,
        key_pem=key_pem(key),
        certificate_pem=answer.status.certificate.encode(),
        root_pem=authority.root_pem,
    )
