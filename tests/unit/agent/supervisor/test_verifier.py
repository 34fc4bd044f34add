# SPDX-License-Identifier: Apache-2.0
"""Every rule of the verifier has a test here that fails without it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from securesystemslib.signer._crypto_signer import CryptoSigner

from kedge_agent.errors import PeerDataError, RefusedOrderError, UntrustedError
from kedge_agent.settings import Limits
from kedge_agent.trust.order import Floor, VerifiedOrder
from kedge_agent.trust.verifier import Verifier, claimed_generation
from kedge_wire import dsse
from kedge_wire.statement import ArtifactKind
from kedge_wire.v1.order_pb2 import Artifact, Envelope, Order
from tests.simulators.repository import (
    DEVICE,
    MODEL_INPUT,
    TENANT,
    Repository,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(model_bytes=1000, config_bytes=100, component_bytes=50)

Change = Callable[[Repository, Order], None]


@pytest.fixture(scope="module")
def repository() -> Repository:
    return Repository()


def verify(
    repository: Repository,
    envelope: Envelope,
    *,
    floor: Floor | None = None,
    now: datetime = NOW,
    limits: Limits = LIMITS,
) -> VerifiedOrder:
    verifier = Verifier(
        device=DEVICE, tenant=TENANT, keys=repository.keys, limits=limits
    )
    return verifier.verify_order(envelope, floor=floor or Floor(), now=now)


def good(repository: Repository, generation: int = 5) -> Order:
    return repository.order(generation, repository.workload(), issued=NOW)


def test_a_good_order_is_obeyed_and_says_what_was_signed(
    repository: Repository,
) -> None:
    envelope = repository.sign(good(repository))
    order = verify(repository, envelope)
    assert order.generation == 5
    assert order.expires == NOW + timedelta(hours=1)
    (workload,) = order.workloads
    assert workload.model.sha256 in repository.blobs
    assert order.lengths[workload.model.sha256] == len(b"model")
    assert Envelope.FromString(order.envelope) == envelope


def test_an_order_to_run_nothing_is_obeyed(repository: Repository) -> None:
    order = verify(repository, repository.sign(repository.order(1, issued=NOW)))
    assert order.workloads == ()


def test_an_order_that_another_key_signed_is_refused(repository: Repository) -> None:
    envelope = repository.sign(good(repository), signer=CryptoSigner.generate_ed25519())
    with pytest.raises(UntrustedError, match="expected a signature by"):
        verify(repository, envelope)


def test_an_order_that_a_publisher_signed_is_refused(repository: Repository) -> None:
    envelope = repository.sign(good(repository), signer=repository.publisher)
    with pytest.raises(UntrustedError):
        verify(repository, envelope)


def test_a_payload_signed_as_something_else_is_refused(repository: Repository) -> None:
    payload = good(repository).SerializeToString()
    envelope = dsse.sign(payload, dsse.ARTIFACT_TYPE, repository.director)
    with pytest.raises(UntrustedError, match="envelope of type"):
        verify(repository, envelope)


def test_one_changed_bit_anywhere_in_the_payload_is_refused(
    repository: Repository,
) -> None:
    envelope = repository.sign(good(repository))
    for position in range(0, len(envelope.payload), 37):
        payload = bytearray(envelope.payload)
        payload[position] ^= 1
        changed = Envelope()
        changed.CopyFrom(envelope)
        changed.payload = bytes(payload)
        with pytest.raises(UntrustedError):
            verify(repository, changed)


def test_a_payload_that_is_no_order_is_refused(repository: Repository) -> None:
    envelope = dsse.sign(b"\xff\xff", dsse.ORDER_TYPE, repository.director)
    with pytest.raises(RefusedOrderError, match=r"expected a kedge_wire\.v1\.Order"):
        verify(repository, envelope)


def test_an_order_that_is_too_long_is_refused_before_its_signature(
    repository: Repository,
) -> None:
    envelope = Envelope(payload_type=dsse.ORDER_TYPE, payload=bytes(2000))
    with pytest.raises(RefusedOrderError, match="at most 1000 bytes"):
        verify(repository, envelope, limits=replace(LIMITS, order_bytes=1000))


def _set(**fields: Any) -> Change:
    def change(_: Repository, order: Order) -> None:
        for name, value in fields.items():
            setattr(order, name, value)

    return change


def _clear(field: str) -> Change:
    def change(_: Repository, order: Order) -> None:
        order.ClearField(field)  # type: ignore[arg-type]  # one of the names below

    return change


def _expire_before_issue(_: Repository, order: Order) -> None:
    order.issued.FromDatetime(NOW + timedelta(hours=3))


def _absurd_time(_: Repository, order: Order) -> None:
    order.expires.seconds = 2**60


def _twice(_: Repository, order: Order) -> None:
    order.workloads.append(order.workloads[0])


def _too_many(_: Repository, order: Order) -> None:
    for number in range(LIMITS.workloads):
        order.workloads.add().CopyFrom(order.workloads[0])
        order.workloads[-1].name = f"w{number}"


def _workload(**fields: Any) -> Change:
    def change(_: Repository, order: Order) -> None:
        for name, value in fields.items():
            setattr(order.workloads[0], name, value)

    return change


def _limit(**fields: int) -> Change:
    def change(_: Repository, order: Order) -> None:
        for name, value in fields.items():
            setattr(order.workloads[0].limits, name, value)

    return change


def _providers(names: list[str]) -> Change:
    def change(_: Repository, order: Order) -> None:
        order.workloads[0].inference.require_providers.extend(names)

    return change


def _swap_places(_: Repository, order: Order) -> None:
    workload = order.workloads[0]
    model = Artifact()
    model.CopyFrom(workload.model)
    workload.model.CopyFrom(workload.component)
    workload.component.CopyFrom(model)


def _no_model(_: Repository, order: Order) -> None:
    order.workloads[0].ClearField("model")


def _artifact(**fields: Any) -> Change:
    """The order says something else about the model than its publisher."""

    def change(_: Repository, order: Order) -> None:
        for name, value in fields.items():
            setattr(order.workloads[0].model, name, value)

    return change


def _restated(**fields: Any) -> Change:
    """The publisher says it too, and it is still wrong."""

    def change(repository: Repository, order: Order) -> None:
        says = repository.statement(ArtifactKind.MODEL, b"model")
        order.workloads[0].model.CopyFrom(repository.altered(says, **fields))

    return change


def _model_as_config(repository: Repository, order: Order) -> None:
    """A statement about a configuration, in an artifact that claims to be a model."""
    says = repository.statement(ArtifactKind.MODEL, b"model")
    artifact = repository.altered(says, kind=ArtifactKind.CONFIG)
    artifact.kind = Artifact.Kind.KIND_MODEL
    order.workloads[0].model.CopyFrom(artifact)


def _one_digest_two_lengths(repository: Repository, order: Order) -> None:
    other = order.workloads.add()
    other.CopyFrom(order.workloads[0])
    other.name = "other"
    says = repository.statement(ArtifactKind.MODEL, b"model")
    other.model.CopyFrom(repository.altered(says, length=6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_set(device="d-ffffffffffffffff"), "expected device", id="device"),
        pytest.param(_set(tenant="other"), "expected device", id="tenant"),
        pytest.param(_set(generation=0), "generation from 1", id="generation-zero"),
        pytest.param(_set(generation=2**63), "generation from 1", id="generation-huge"),
        pytest.param(_clear("issued"), "a time in issued", id="no-issued"),
        pytest.param(_clear("expires"), "a time in expires", id="no-expires"),
        pytest.param(_absurd_time, "a time in expires", id="absurd-time"),
        pytest.param(_expire_before_issue, "expire after", id="ends-before-it-starts"),
        pytest.param(_too_many, "at most 64 workloads", id="too-many-workloads"),
        pytest.param(_twice, "found it twice", id="same-name-twice"),
        pytest.param(_workload(name="../x"), "DNS label", id="name-no-label"),
        pytest.param(_set(template_version=""), "template version", id="no-template"),
        pytest.param(_set(template_version="x" * 254), "at most 253", id="template"),
        pytest.param(_limit(pool_size=65), "pool_size of at most", id="pool"),
        pytest.param(_limit(wall_time_ms=600_001), "wall_time_ms", id="wall-time"),
        pytest.param(_limit(warmup_iterations=1001), "warmup", id="warmup"),
        pytest.param(
            _limit(component_memory_bytes=2**32 + 1), "component_memory", id="memory"
        ),
        pytest.param(_providers(["x"] * 17), "at most 16 providers", id="providers"),
        pytest.param(_providers([""]), "providers", id="provider-empty"),
        pytest.param(_providers(["x" * 65]), "providers", id="provider-long"),
        pytest.param(_swap_places, "artifact of kind", id="model-as-component"),
        pytest.param(_no_model, "artifact of kind", id="no-model"),
        pytest.param(_artifact(name="other"), "publisher signed", id="other-name"),
        pytest.param(_artifact(version="2"), "publisher signed", id="other-version"),
        pytest.param(_artifact(sha256="0" * 64), "publisher signed", id="other-digest"),
        pytest.param(_artifact(length=4), "publisher signed", id="other-length"),
        pytest.param(_model_as_config, "publisher signed", id="other-kind"),
        pytest.param(
            _restated(namespace="other"), "publisher signed", id="other-namespace"
        ),
        pytest.param(_restated(length=1001), "at most 1000 bytes", id="too-long"),
        pytest.param(_one_digest_two_lengths, "one length per digest", id="lengths"),
        pytest.param(
            _restated(inputs=(replace(MODEL_INPUT, datatype="INT8"),)),
            "a model that fits",
            id="inputs-do-not-fit",
        ),
        pytest.param(_restated(outputs=()), "a model that fits", id="no-outputs"),
    ],
)
def test_an_order_that_breaks_a_rule_is_refused(
    repository: Repository, change: Change, message: str
) -> None:
    order = good(repository)
    change(repository, order)
    with pytest.raises(RefusedOrderError, match=message):
        verify(repository, repository.sign(order))


def _unknown_tenant(_: Repository, order: Order) -> None:
    order.workloads[0].tenant = "other"


def _foreign_publisher(repository: Repository, order: Order) -> None:
    says = repository.statement(ArtifactKind.MODEL, b"model")
    stranger = CryptoSigner.generate_ed25519()
    order.workloads[0].model.CopyFrom(repository.artifact(says, signer=stranger))


def _director_publishes(repository: Repository, order: Order) -> None:
    says = repository.statement(ArtifactKind.MODEL, b"model")
    director = repository.director
    order.workloads[0].model.CopyFrom(repository.artifact(says, signer=director))


def _no_statement(_: Repository, order: Order) -> None:
    order.workloads[0].model.ClearField("statement")


def _statement_is_no_json(repository: Repository, order: Order) -> None:
    envelope = dsse.sign(b"{", dsse.ARTIFACT_TYPE, repository.publisher)
    order.workloads[0].model.statement.CopyFrom(envelope)


def _statement_of_another_type(repository: Repository, order: Order) -> None:
    payload = order.workloads[0].model.statement.payload
    envelope = dsse.sign(payload, dsse.ORDER_TYPE, repository.publisher)
    order.workloads[0].model.statement.CopyFrom(envelope)


@pytest.mark.parametrize(
    "change",
    [
        _unknown_tenant,
        _foreign_publisher,
        _director_publishes,
        _no_statement,
        _statement_is_no_json,
        _statement_of_another_type,
    ],
    ids=lambda change: change.__name__.strip("_"),
)
def test_a_stolen_director_key_cannot_bring_bytes_that_no_publisher_signed(
    repository: Repository, change: Change
) -> None:
    order = good(repository)
    change(repository, order)
    with pytest.raises(UntrustedError):
        verify(repository, repository.sign(order))


def test_an_order_below_the_floor_is_refused(repository: Repository) -> None:
    with pytest.raises(RefusedOrderError, match="generation 6 or newer"):
        verify(
            repository,
            repository.sign(good(repository)),
            floor=Floor(generation=6, digest="x"),
        )


def test_the_same_order_again_is_obeyed_even_with_a_new_signature(
    repository: Repository,
) -> None:
    order = good(repository)
    first = verify(repository, repository.sign(order))
    floor = Floor(generation=5, digest=first.digest)
    again = verify(repository, repository.sign(order), floor=floor)
    assert again.digest == first.digest


def test_another_order_of_the_same_generation_is_refused(
    repository: Repository,
) -> None:
    first = verify(repository, repository.sign(good(repository)))
    fork = repository.order(5, repository.workload(other=1), issued=NOW)
    floor = Floor(generation=5, digest=first.digest)
    with pytest.raises(RefusedOrderError, match="same bytes"):
        verify(repository, repository.sign(fork), floor=floor)


def test_an_expired_order_is_refused(repository: Repository) -> None:
    envelope = repository.sign(good(repository))
    with pytest.raises(RefusedOrderError, match="not expired"):
        verify(repository, envelope, now=NOW + timedelta(hours=1))


def test_a_clock_that_was_set_back_does_not_revive_an_expired_order(
    repository: Repository,
) -> None:
    envelope = repository.sign(good(repository))
    floor = Floor(clock=NOW + timedelta(hours=2))
    with pytest.raises(RefusedOrderError, match="not expired"):
        verify(repository, envelope, floor=floor)


def test_a_stored_order_is_believed_although_it_has_expired(
    repository: Repository,
) -> None:
    verifier = Verifier(
        device=DEVICE, tenant=TENANT, keys=repository.keys, limits=LIMITS
    )
    stored = repository.sign(good(repository)).SerializeToString()
    assert verifier.verify_stored(stored, generation=5).generation == 5
    with pytest.raises(RefusedOrderError, match="expected generation 6"):
        verifier.verify_stored(stored, generation=6)
    with pytest.raises(PeerDataError):
        verifier.verify_stored(stored[:-1] + b"\x00", generation=5)


def test_the_same_workloads_under_a_newer_order_have_the_same_digest(
    repository: Repository,
) -> None:
    workload = repository.workload()
    one, two, other = (
        verify(repository, repository.sign(order))
        for order in (
            repository.order(5, workload, template="a", issued=NOW),
            repository.order(6, workload, template="a", issued=NOW),
            repository.order(7, workload, template="b", issued=NOW),
        )
    )
    assert one.content_digest == two.content_digest
    assert one.workloads_digest == other.workloads_digest
    assert one.content_digest != other.content_digest


def test_a_refused_order_can_be_named_whoever_wrote_it(repository: Repository) -> None:
    assert claimed_generation(repository.sign(good(repository))) == 5
    assert claimed_generation(Envelope(payload=b"\xff")) == 0
