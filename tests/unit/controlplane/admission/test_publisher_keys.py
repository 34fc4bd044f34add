# SPDX-License-Identifier: Apache-2.0
"""Which public keys are believed."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from kedge_controlplane.admission.admission import Admission
from kedge_controlplane.errors import InvalidError
from kedge_controlplane.model.publisher import PublisherKey
from tests.unit.controlplane.admission.publisher import Publisher


def publisher_of(signer: CryptoSigner) -> Publisher:
    publisher = Publisher()
    publisher.signer = signer
    return publisher


async def refused_field(admission: Admission, key: PublisherKey) -> str:
    with pytest.raises(InvalidError) as caught:
        await admission.admit(key, None)
    return caught.value.causes[0].field


@pytest.mark.parametrize(
    "make",
    [
        CryptoSigner.generate_ed25519,
        CryptoSigner.generate_ecdsa,
        lambda: CryptoSigner.generate_rsa(size=2048),
    ],
    ids=["ed25519", "ecdsa", "rsa"],
)
async def test_keys_of_every_type_are_admitted(
    admission: Admission, make: Callable[[], CryptoSigner]
) -> None:
    await admission.admit(publisher_of(make()).key(), None)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"keyid": "0" * 64}, "spec.keyid"),
        ({"public": "zz"}, "spec.public"),
        ({"public": "00"}, "spec.public"),
        ({"scheme": "rsassa-pss-sha256"}, "spec.scheme"),
        ({"keytype": "rsa", "scheme": "rsassa-pss-sha256"}, "spec.public"),
    ],
    ids=["another id", "no hex", "too short", "another scheme", "another type"],
)
async def test_a_key_that_is_not_what_it_says_is_refused(
    admission: Admission, changes: dict[str, str], field: str
) -> None:
    assert await refused_field(admission, Publisher().key(**changes)) == field


async def test_upper_case_does_not_make_a_second_key_of_one(
    admission: Admission,
) -> None:
    key = Publisher().key()
    key.spec.public = key.spec.public.upper()
    assert await refused_field(admission, key) == "spec.public"


async def test_a_short_rsa_key_is_refused(admission: Admission) -> None:
    private = generate_private_key(public_exponent=65537, key_size=1024)
    signer = CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))
    assert await refused_field(admission, publisher_of(signer).key()) == "spec.public"


@pytest.mark.parametrize(
    "curve", [ec.SECP256K1(), ec.BrainpoolP256R1()], ids=lambda curve: curve.name
)
async def test_a_key_on_a_curve_that_devices_do_not_know_is_refused(
    admission: Admission, curve: ec.EllipticCurve
) -> None:
    private = ec.generate_private_key(curve)
    pem = private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    key = Publisher().key(
        keytype="ecdsa", scheme="ecdsa-sha2-nistp256", public=pem.decode()
    )
    assert await refused_field(admission, key) == "spec.public"
