# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from kedge_controlplane.reconcile.clock import ManualClock
from kedge_controlplane.store import tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import (
    SERVER_LIFE,
    CertificateAuthority,
    ServerCertificate,
)
from kedge_controlplane.trust.tokens import read_token
from kedge_controlplane.upkeep import Upkeep
from tests.simulators.controlplane import START, enrolment_token, migrated_store

DAY = timedelta(days=1)


@dataclass(slots=True, kw_only=True)
class House:
    store: Store
    clock: ManualClock
    upkeep: Upkeep


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = ManualClock(START)
    async with migrated_store(tmp_path) as store:
        upkeep = Upkeep(
            store=store,
            clock=clock,
            authority=CertificateAuthority.open(tmp_path / "trust", now=START),
            names=["localhost"],
            every=timedelta(hours=1),
            keep_tokens=30 * DAY,
        )
        yield House(store=store, clock=clock, upkeep=upkeep)


def test_certificate_is_renewed_with_a_third_of_its_life_left(house: House) -> None:
    told: list[ServerCertificate] = []
    first = house.upkeep.certificate
    house.clock.advance(SERVER_LIFE * 2 / 3 - DAY)
    house.upkeep.renew(told.append)
    assert told == []
    house.clock.advance(2 * DAY)
    house.upkeep.renew(told.append)
    house.upkeep.renew(told.append)
    assert told == [house.upkeep.certificate]
    assert told != [first]


def test_renewal_that_a_listener_did_not_take_is_offered_again(house: House) -> None:
    def refuse(certificate: ServerCertificate) -> None:
        raise OSError(certificate.path)

    house.clock.advance(SERVER_LIFE * 3 / 4)
    with pytest.raises(OSError, match=r"server\.pem"):
        house.upkeep.renew(refuse)
    told: list[ServerCertificate] = []
    house.upkeep.renew(told.append)
    assert len(told) == 1


async def test_token_is_forgotten_when_its_answer_can_no_longer_be_asked_for(
    house: House,
) -> None:
    token = read_token(await enrolment_token(house.store, life=DAY))
    house.clock.advance(30 * DAY)
    await house.upkeep.forget_tokens()
    assert await tokens.find(house.store, token.id) is not None
    house.clock.advance(2 * DAY)
    await house.upkeep.forget_tokens()
    assert await tokens.find(house.store, token.id) is None
