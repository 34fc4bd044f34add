# SPDX-License-Identifier: Apache-2.0
"""Private keys on this machine."""

import stat
from pathlib import Path

import pytest

from kedge_controlplane.cli.keyring import Keyring
from kedge_controlplane.errors import InputError
from kedge_controlplane.model.publisher import PublisherKey


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys")
    key, created = ring.create("publisher")
    again, created_again = ring.create("publisher")
    assert (created, created_again) == (True, False)
    assert key.keyid == again.keyid
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700


def test_the_object_to_register_holds_no_private_part(tmp_path: Path) -> None:
    key, _ = Keyring(tmp_path).create("publisher")
    publisher = PublisherKey.model_validate(key.to_object())
    assert publisher.name == f"publisher-{key.keyid[:8]}"
    assert publisher.spec.keyid == key.keyid
    assert publisher.spec.public == key.signer.public_key.keyval["public"]


def test_the_only_key_need_not_be_named(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    with pytest.raises(InputError) as caught:
        ring.choose(None)
    assert "kedge keys init" in caught.value.diagnostics()
    first, _ = ring.create("first")
    assert ring.choose(None).keyid == first.keyid
    second, _ = ring.create("second")
    with pytest.raises(InputError, match="found first, second"):
        ring.choose(None)
    assert ring.choose("second").keyid == second.keyid


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key, _ = Keyring(tmp_path).create("publisher")
    key.path.chmod(0o644)
    with pytest.raises(InputError, match="found mode 0644") as caught:
        Keyring(tmp_path).choose(None)
    assert f"chmod 600 {key.path}" in caught.value.diagnostics()


@pytest.mark.parametrize("text", [b"", b"garbage", b"\xff\xfe"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "broken.pem"
    path.touch(mode=0o600)
    path.write_bytes(text)
    with pytest.raises(InputError, match="expected a private key in PEM"):
        Keyring(tmp_path).choose(None)


@pytest.mark.parametrize("name", ["", "../x", "UPPER", "a/b", "-"])
def test_a_key_name_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected a name"):
        Keyring(tmp_path).create(name)
    with pytest.raises(InputError):
        Keyring(tmp_path).choose(name)
