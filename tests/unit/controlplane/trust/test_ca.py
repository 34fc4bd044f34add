# SPDX-License-Identifier: Apache-2.0
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kedge_controlplane.errors import TrustError
from kedge_controlplane.trust.ca import (
    DEVICE_LIFE,
    SERVER_LIFE,
    CertificateAuthority,
    read_request,
)
from kedge_controlplane.trust.identity import identity_from_der, identity_from_pem
from tests.simulators.enrolled_device import csr_pem, new_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.open(tmp_path, now=NOW)


def issue(authority: CertificateAuthority) -> x509.Certificate:
    issued = authority.issue_device(
        read_request(csr_pem(new_key(), "root of all")),
        namespace="default",
        device="d-0123456789abcdef",
        now=NOW,
    )
    return x509.load_pem_x509_certificate(issued.pem.encode())


def test_authority_is_the_same_after_a_restart(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    assert CertificateAuthority.open(tmp_path, now=NOW).root_pem == authority.root_pem


def test_key_without_certificate_is_a_start_that_was_interrupted(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    (tmp_path / "ca.pem").unlink()
    again = CertificateAuthority.open(tmp_path, now=NOW)
    issue(again).verify_directly_issued_by(
        x509.load_pem_x509_certificate(authority.root_pem)
    )


def test_private_files_are_for_their_owner_only(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    authority.server_certificate(["localhost"], now=NOW)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600}


def test_certificate_of_another_key_is_refused(
    tmp_path: Path, authority: CertificateAuthority
) -> None:
    CertificateAuthority.open(tmp_path / "other", now=NOW)
    (tmp_path / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(TrustError, match=r"ca\.pem"):
        CertificateAuthority.open(tmp_path, now=NOW)


@pytest.mark.parametrize("name", ["ca.key", "ca.pem"])
def test_damaged_file_is_named(
    tmp_path: Path, authority: CertificateAuthority, name: str
) -> None:
    (tmp_path / name).write_bytes(b"garbage")
    with pytest.raises(TrustError, match=name):
        CertificateAuthority.open(tmp_path, now=NOW)


def test_device_certificate_carries_what_the_server_chose(
    authority: CertificateAuthority,
) -> None:
    certificate = issue(authority)
    common_name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in common_name] == ["d-0123456789abcdef"]
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    limits = extensions.get_extension_for_class(x509.BasicConstraints).value
    assert limits.ca is False
    assert certificate.not_valid_after_utc == NOW + DEVICE_LIFE
    identity = identity_from_pem(certificate.public_bytes(Encoding.PEM))
    assert str(identity) == "default/d-0123456789abcdef"
    assert int(identity.serial, 16) == certificate.serial_number
    assert identity == identity_from_der(certificate.public_bytes(Encoding.DER))


def test_server_certificate_is_kept_while_it_serves(
    authority: CertificateAuthority,
) -> None:
    first = authority.server_certificate(["localhost", "127.0.0.1"], now=NOW)
    later = NOW + timedelta(days=30)
    assert authority.server_certificate(["localhost", "127.0.0.1"], now=later) == first


@pytest.mark.parametrize(
    ("names", "after"),
    [
        (["localhost", "edge.example"], timedelta()),
        (["localhost"], SERVER_LIFE - timedelta(days=29)),
    ],
    ids=["other names", "end near"],
)
def test_server_certificate_is_made_again(
    authority: CertificateAuthority, names: list[str], after: timedelta
) -> None:
    first = authority.server_certificate(["localhost"], now=NOW)
    assert authority.server_certificate(names, now=NOW + after) != first


def test_damaged_server_certificate_is_made_again(
    authority: CertificateAuthority,
) -> None:
    first = authority.server_certificate(["localhost"], now=NOW)
    first.path.write_bytes(first.path.read_bytes()[:400])
    again = authority.server_certificate(["localhost"], now=NOW)
    assert again.chain_pem.count(b"BEGIN CERTIFICATE") == 2


def test_server_certificate_is_no_device(authority: CertificateAuthority) -> None:
    chain = authority.server_certificate(["localhost"], now=NOW).chain_pem
    with pytest.raises(TrustError, match="URI name"):
        identity_from_pem(chain)


def test_request_with_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(TrustError, match="P-256"):
        read_request(csr_pem(key))


def test_request_with_an_rsa_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pem = builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
    with pytest.raises(TrustError, match="P-256"):
        read_request(pem)


def test_request_signed_by_another_key_is_refused() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    der = bytearray(builder.sign(new_key(), SHA256()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    request = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(TrustError, match="its own key"):
        read_request(request.decode())


@pytest.mark.parametrize(
    "pem",
    ["", "garbage", "é", "x" * 9000, csr_pem(new_key())[:200]],
    ids=["empty", "garbage", "not ascii", "too long", "cut"],
)
def test_request_that_is_none_is_refused(pem: str) -> None:
    with pytest.raises(TrustError, match=r"^csr: "):
        read_request(pem)


@pytest.mark.parametrize("pem", [b"", b"garbage"])
def test_identity_needs_a_certificate(pem: bytes) -> None:
    with pytest.raises(TrustError, match="expected a certificate"):
        identity_from_pem(pem)
