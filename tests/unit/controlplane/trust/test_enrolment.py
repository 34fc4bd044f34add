# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kedge_controlplane.errors import InvalidError, NotFoundError, UnauthorizedError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.enrollment import EnrollmentPhase, EnrollmentRequest
from kedge_controlplane.store import certificates
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority
from kedge_controlplane.trust.enrolment import Enrolment
from kedge_controlplane.trust.identity import identity_from_pem
from kedge_controlplane.trust.tokens import Purpose, new_token
from tests.simulators.controlplane import (
    NAMESPACE,
    START,
    enrolment_request,
    enrolment_token,
    migrated_store,
)
from tests.simulators.enrolled_device import csr_pem, new_key


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with migrated_store(tmp_path) as store:
        yield store


class Time:
    def __init__(self) -> None:
        self.value = START

    def __call__(self) -> datetime:
        return self.value


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def enrolment(store: Store, tmp_path: Path, time: Time) -> Enrolment:
    authority = CertificateAuthority.open(tmp_path / "trust", now=START)
    return Enrolment(store=store, authority=authority, now=time)


async def test_token_makes_a_device_with_its_labels(
    store: Store, enrolment: Enrolment
) -> None:
    token = await enrolment_token(store, labels={"site": "lab"})
    answer = await enrolment.enrol(enrolment_request(csr_pem(new_key())), token)
    assert answer.status.phase is EnrollmentPhase.APPROVED
    device = await store.get(Device, NAMESPACE, answer.status.device)
    assert device.metadata.labels == {"site": "lab"}
    assert device.status.system_info.hostname == "sim"
    identity = identity_from_pem(answer.status.certificate.encode())
    assert identity.device == device.name
    row = await certificates.find(store, identity.serial)
    assert row is not None
    assert row.revoked_at is None
    stored = await store.get(EnrollmentRequest, NAMESPACE, answer.name)
    assert stored.status == answer.status


async def test_device_that_lost_the_answer_gets_it_again(
    store: Store, enrolment: Enrolment, time: Time
) -> None:
    token, key = await enrolment_token(store), new_key()
    first = await enrolment.enrol(enrolment_request(csr_pem(key)), token)
    time.value += timedelta(days=1)
    again = await enrolment.enrol(enrolment_request(csr_pem(key)), token)
    assert again == first
    assert len((await store.list(Device)).items) == 1


async def test_used_token_is_refused_to_another_key(
    store: Store, enrolment: Enrolment
) -> None:
    token = await enrolment_token(store)
    await enrolment.enrol(enrolment_request(csr_pem(new_key())), token)
    with pytest.raises(UnauthorizedError, match="used"):
        await enrolment.enrol(enrolment_request(csr_pem(new_key())), token)


async def test_token_admits_one_of_many_at_once(
    store: Store, enrolment: Enrolment
) -> None:
    token = await enrolment_token(store)
    requests = [enrolment_request(csr_pem(new_key())) for _ in range(8)]
    answers = await asyncio.gather(
        *(enrolment.enrol(request, token) for request in requests),
        return_exceptions=True,
    )
    assert sum(isinstance(a, EnrollmentRequest) for a in answers) == 1
    assert sum(isinstance(a, UnauthorizedError) for a in answers) == 7
    assert len((await store.list(Device)).items) == 1


async def test_expired_token_is_refused(
    store: Store, enrolment: Enrolment, time: Time
) -> None:
    token = await enrolment_token(store)
    time.value += timedelta(hours=1)
    with pytest.raises(UnauthorizedError, match="expired"):
        await enrolment.enrol(enrolment_request(csr_pem(new_key())), token)


@pytest.mark.parametrize(
    "token",
    ["", "garbage", new_token(Purpose.ENROLMENT), new_token(Purpose.OPERATOR)],
    ids=["empty", "garbage", "never made", "an operator's"],
)
async def test_unknown_token_is_refused(enrolment: Enrolment, token: str) -> None:
    with pytest.raises(UnauthorizedError, match="unknown"):
        await enrolment.enrol(enrolment_request(csr_pem(new_key())), token)


async def test_known_id_with_another_secret_is_unknown(
    store: Store, enrolment: Enrolment
) -> None:
    token = await enrolment_token(store)
    forged = token[:-64] + new_token(Purpose.ENROLMENT)[-64:]
    with pytest.raises(UnauthorizedError, match="unknown"):
        await enrolment.enrol(enrolment_request(csr_pem(new_key())), forged)


async def test_token_of_another_namespace_is_refused(
    store: Store, enrolment: Enrolment
) -> None:
    token = await enrolment_token(store)
    request = enrolment_request(csr_pem(new_key()))
    request.metadata.namespace = "other"
    with pytest.raises(UnauthorizedError, match="namespace"):
        await enrolment.enrol(request, token)


async def test_bad_request_leaves_the_token_unused(
    store: Store, enrolment: Enrolment
) -> None:
    token = await enrolment_token(store)
    with pytest.raises(InvalidError) as caught:
        await enrolment.enrol(enrolment_request("garbage"), token)
    assert [cause.field for cause in caught.value.causes] == ["spec.csr"]
    answer = await enrolment.enrol(enrolment_request(csr_pem(new_key())), token)
    assert answer.status.phase is EnrollmentPhase.APPROVED
    with pytest.raises(NotFoundError):
        await store.get(Device, "other", answer.status.device)
