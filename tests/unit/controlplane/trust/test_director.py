# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer._key import SSlibKey

from kedge_controlplane.controllers.template import resolve
from kedge_controlplane.errors import TrustError
from kedge_controlplane.model.template_version import TemplateVersion
from kedge_controlplane.trust.director import ORDER_LIFE, Director, content_digest
from kedge_wire import dsse
from kedge_wire.v1.order_pb2 import Artifact, Envelope, Order
from tests.simulators.controlplane import START, fleet, migrated_store, release

DEVICE = "d-0123456789abcdef"


@pytest.fixture
async def template(tmp_path: Path) -> AsyncIterator[TemplateVersion]:
    async with migrated_store(tmp_path) as store:
        yield await resolve(store, fleet("cams", await release(store, "1")))


@pytest.fixture
def director(tmp_path: Path) -> Director:
    return Director.open(tmp_path / "trust")


def sign(
    director: Director, template: TemplateVersion | None, generation: int = 3
) -> Envelope:
    return director.sign_order(
        device=DEVICE,
        namespace="default",
        generation=generation,
        template=template,
        now=START,
    )


def verified(director: Director, envelope: Envelope) -> Order:
    [document] = director.public_keys
    keyid = document.pop("keyid")
    key = SSlibKey.from_dict(keyid, document)
    return Order.FromString(dsse.verify(envelope, dsse.ORDER_TYPE, [key], what="order"))


def test_order_says_all_that_the_template_says(
    director: Director, template: TemplateVersion
) -> None:
    order = verified(director, sign(director, template))
    assert (order.device, order.tenant, order.generation) == (DEVICE, "default", 3)
    assert order.template_version == template.name
    assert order.expires.ToDatetime() - order.issued.ToDatetime() == ORDER_LIFE
    [workload] = order.workloads
    assert (workload.name, workload.tenant) == ("digits", "default")
    assert workload.model.kind == Artifact.KIND_MODEL
    assert (workload.model.name, workload.model.version) == ("digits", "1")
    resolved = template.spec.workloads[0].model.artifact
    assert workload.model.sha256 == resolved.sha256
    assert workload.model.length == 100
    assert workload.model.statement.payload == b"model-1"
    assert workload.model.statement.signatures[0].sig == b"signature"
    assert workload.limits.component_memory_bytes == 64 * 2**20
    assert workload.limits.wall_time_ms == 10_000
    assert workload.limits.warmup_iterations == 10


def test_order_without_a_template_runs_nothing(director: Director) -> None:
    order = verified(director, sign(director, None))
    assert order.template_version == ""
    assert not order.workloads


def test_key_survives_a_restart(director: Director, tmp_path: Path) -> None:
    again = Director.open(tmp_path / "trust")
    verified(director, sign(again, None))


def test_damaged_key_is_named(director: Director, tmp_path: Path) -> None:
    (tmp_path / "trust" / "director.key").write_bytes(b"garbage")
    with pytest.raises(TrustError, match=r"director\.key"):
        Director.open(tmp_path / "trust")


def test_content_digest_ignores_generation_and_times(
    director: Director, template: TemplateVersion
) -> None:
    first = sign(director, template)
    later = director.sign_order(
        device=DEVICE,
        namespace="default",
        generation=4,
        template=template,
        now=START + timedelta(hours=1),
    )
    assert content_digest(first) == content_digest(later)
    assert content_digest(first) != content_digest(sign(director, None))


@pytest.mark.parametrize("number", ["99999999999h", f"{10**30}s"])
def test_limit_that_the_order_cannot_hold_is_refused(
    director: Director, template: TemplateVersion, number: str
) -> None:
    template.spec.limits.wall_time = number
    with pytest.raises(TrustError, match="within their bounds"):
        sign(director, template)


@pytest.mark.parametrize("payload", ["%", "é"], ids=["not base64", "not ASCII"])
def test_statement_that_is_not_base64_is_refused(
    director: Director, template: TemplateVersion, payload: str
) -> None:
    template.spec.workloads[0].model.statement.payload = payload
    with pytest.raises(TrustError, match="digits@1"):
        sign(director, template)


def test_order_that_devices_would_refuse_is_not_signed(
    director: Director, template: TemplateVersion
) -> None:
    template.spec.workloads[0].model.statement.payload = "AAAA" * 100_000
    with pytest.raises(TrustError, match="at most 262144 bytes"):
        sign(director, template)
