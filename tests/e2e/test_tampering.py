# SPDX-License-Identifier: Apache-2.0
"""One bit of any artifact, or another signature: refused, and the old triple serves."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge_controlplane.cli.keyring import Keyring
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.registry import BY_KIND
from kedge_wire.statement import ArtifactKind
from tests.e2e.fleet import ControlPlane, running, until

pytestmark = pytest.mark.xdist_group("e2e-tampering")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with running(tmp_path, devices=2) as plane:
        yield plane


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(bytes(content))


def other_component(plane: ControlPlane) -> str:
    """Push the component once more, under another version and digest."""
    key = plane.keyring.choose("publisher")
    wasm = plane.digits.component.read_bytes() + b"\x00\x02\x01x"  # custom section
    return plane.push(key, ArtifactKind.COMPONENT, wasm, version="0.2.0")


@pytest.mark.parametrize("kind", list(ArtifactKind))
def test_one_flipped_bit_is_refused_and_the_old_triple_serves_on(
    plane: ControlPlane, kind: ArtifactKind
) -> None:
    before = plane.digits.references[0].digest
    digest = tampered(plane, kind)
    rollout = plane.until_phase("Paused")
    assert "canary" in rollout.status.message
    moved = {name for batch in rollout.status.batches for name in batch.devices}
    for agent in plane.agents:
        device = agent.device()
        assert agent.model_digest() == before
        assert (device.name in moved) == (device.status.failure is not None)
        if device.status.failure is not None:
            assert device.status.failure.code == "DATA_LOSS"
            assert device.status.failure.component == "fetch"
            assert digest in device.status.failure.element + (
                device.status.failure.message
            )
            assert device.status.summary.status == "Degraded"
    assert len(moved) == 1


def test_a_config_that_does_not_fit_the_model_halts_at_the_canary(
    plane: ControlPlane,
) -> None:
    """Valid JSON, signed, and wrong: it names a tensor that the model has not."""
    key = plane.keyring.choose("publisher")
    config = json.loads(plane.digits.config.read_bytes()) | {"input": "nosuch"}
    plane.push(
        key,
        ArtifactKind.CONFIG,
        json.dumps(config).encode(),
        name="digits",
        version="9",
    )
    plane.roll_out(2, config=9)
    plane.until_phase("Paused")
    (failure,) = [d.status.failure for d in plane.devices() if d.status.failure]
    assert failure.component == "runtime"
    assert "expects a tensor named nosuch, the model has image" in failure.message
    before = plane.digits.references[0].digest
    assert all(agent.model_digest() == before for agent in plane.agents)


def tampered(plane: ControlPlane, kind: ArtifactKind) -> str:
    """Flip a bit of a stored artifact that devices do not have, and roll it out."""
    component = "image-classifier-0.1.0"
    model, config = 1, 1
    match kind:
        case ArtifactKind.COMPONENT:
            digest = other_component(plane)
            component = "image-classifier-0.2.0"
        case ArtifactKind.MODEL:
            digest, model = plane.digits.references[1].digest, 2
        case ArtifactKind.CONFIG:
            found = plane.client.get(BY_KIND["ConfigSet"], "digits-2")
            digest, config = found["spec"]["artifact"]["sha256"], 2
    flip_one_bit(plane.blob(digest))
    plane.roll_out(model, config=config, component=component)
    return digest


def test_an_order_signed_by_another_key_is_refused_and_the_old_triple_serves_on(
    plane: ControlPlane,
) -> None:
    before = plane.digits.references[0].digest
    plane.stop(signal.SIGTERM)
    (key,) = (plane.data / "trust").glob("director*.key")
    thief, _ = Keyring(plane.folder / "thief").create("thief")
    key.write_bytes(thief.path.read_bytes())
    plane.start()
    plane.roll_out(2)

    def refused() -> list[Device]:
        return [d for d in plane.devices() if d.status.failure is not None]

    until(lambda: bool(refused()), "a device refuses the order", log=plane.log)
    (device,) = refused()
    assert device.status.failure is not None
    assert device.status.failure.code == "PERMISSION_DENIED"
    assert device.status.failure.component == "trust"
    assert "expected a signature by" in device.status.failure.message
    assert device.status.running.template_version
    assert all(agent.model_digest() == before for agent in plane.agents)


def test_a_component_of_another_publisher_is_refused_by_the_device(
    plane: ControlPlane,
) -> None:
    """The control plane may be made to believe a key; the devices are not."""
    thief, _ = Keyring(plane.folder / "thief").create("thief")
    plane.register(thief)
    wasm = plane.digits.component.read_bytes() + b"\x00\x02\x01x"
    plane.push(thief, ArtifactKind.COMPONENT, wasm, version="0.2.0")
    plane.roll_out(1, component="image-classifier-0.2.0")
    plane.until_phase("Paused")
    failures = [d.status.failure for d in plane.devices() if d.status.failure]
    assert [failure.code for failure in failures] == ["PERMISSION_DENIED"]
    before = plane.digits.references[0].digest
    assert all(agent.model_digest() == before for agent in plane.agents)
