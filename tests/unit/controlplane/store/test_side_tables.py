# SPDX-License-Identifier: Apache-2.0
"""The tables that no API object shows."""

from datetime import UTC, datetime, timedelta

from kedge_controlplane.store import certificates, leases, orders, tokens
from kedge_controlplane.store.certificates import Certificate
from kedge_controlplane.store.orders import Order
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.tokens import Token
from kedge_controlplane.store.transaction import Transaction

NOW = datetime(2026, 1, 1, 12, 30, 15, tzinfo=UTC)


def token(name: str = "t", *, expires: datetime | None = None) -> Token:
    return Token(
        id=name,
        namespace="default",
        purpose="enrolment",
        secret_sha256="00" * 32,
        user="",
        groups=("a", "b"),
        labels={"site": "berlin"},
        expires=expires,
        created=NOW,
    )


async def test_a_token_reads_back_and_is_used_once(store: Store) -> None:
    await store.write(lambda transaction: tokens.add(transaction, token()))
    assert await tokens.find(store, "t") == token()
    assert await tokens.find(store, "u") is None

    async def use(transaction: Transaction) -> bool:
        return await tokens.mark_used(transaction, "t", at=NOW, by="key")

    assert await store.write(use) is True
    assert await store.write(use) is False
    used = await tokens.find(store, "t")
    assert used is not None
    assert (used.used_at, used.used_by) == (NOW, "key")


async def test_only_expired_tokens_are_forgotten(store: Store) -> None:
    async def work(transaction: Transaction) -> int:
        await tokens.add(transaction, token("never"))
        await tokens.add(transaction, token("old", expires=NOW - timedelta(hours=2)))
        await tokens.add(transaction, token("new", expires=NOW))
        return await tokens.remove_expired(transaction, before=NOW - timedelta(hours=1))

    assert await store.write(work) == 1
    assert await tokens.find(store, "old") is None
    assert token("x", expires=NOW).expired(NOW)
    assert not token("x").expired(NOW)


def order(device: str, *, hours: int = 24) -> Order:
    return Order(
        namespace="default",
        device=device,
        generation=hours,
        template_version="tv",
        content_digest="00" * 32,
        envelope=b"\x00envelope",
        expires=NOW + timedelta(hours=hours),
    )


async def test_a_device_has_one_order(store: Store) -> None:
    async def work(transaction: Transaction) -> None:
        for one in (order("a"), order("b", hours=2)):
            await orders.put(transaction, one)
        await orders.put(transaction, order("a", hours=48))

    await store.write(work)
    assert await orders.find(store, "default", "a") == order("a", hours=48)
    assert await orders.find(store, "other", "a") is None
    assert await orders.find(store, "default", "b") == order("b", hours=2)
    await store.write(lambda within: orders.remove(within, "default", "a"))
    assert await orders.find(store, "default", "a") is None


async def test_leases_keep_the_last_beat_of_each_device(store: Store) -> None:
    later = NOW + timedelta(seconds=15)
    a, b = ("default", "a"), ("default", "b")

    async def work(transaction: Transaction) -> None:
        await leases.renew(transaction, {})
        await leases.renew(transaction, {a: NOW, b: NOW})
        await leases.renew(transaction, {a: later})

    await store.write(work)
    assert await leases.all_seen(store) == {a: later, b: NOW}
    await store.write(lambda transaction: leases.remove(transaction, *a))
    assert await leases.all_seen(store) == {b: NOW}


async def test_all_certificates_of_a_device_are_revoked_once(store: Store) -> None:
    def certificate(serial: str, device: str) -> Certificate:
        return Certificate(
            serial=serial,
            namespace="default",
            device=device,
            not_after=NOW,
            public_key_sha256="00" * 32,
        )

    async def work(transaction: Transaction) -> int:
        for serial, device in (("1a", "d"), ("2b", "d"), ("3c", "e")):
            await certificates.add(transaction, certificate(serial, device))
        return await certificates.revoke_device(transaction, "default", "d", at=NOW)

    assert await store.write(work) == 2
    revoked = await certificates.find(store, "1a")
    assert revoked is not None
    assert revoked.revoked_at == NOW
    assert await certificates.find(store, "3c") == certificate("3c", "e")
    assert await certificates.find(store, "ff") is None
