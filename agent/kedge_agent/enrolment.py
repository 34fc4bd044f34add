# SPDX-License-Identifier: Apache-2.0
"""How a device gets its identity, once.

    key.pem, csr.pem -> ca.pem -> (asked, perhaps waiting for approval) -> cert.pem
        -> trust.json

The key is made here and never leaves. `trust.json` is written last: it is there, or the
device is not enrolled. A stop between any two steps leaves key and request in place,
and the next start asks again with the same request, which the control plane answers the
same way although the token is for one use.
"""

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from ssl import TLSVersion
from typing import Any, Final, Self

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from urllib3.exceptions import HTTPError

from kedge_agent.backoff import Backoff
from kedge_agent.disk import write_atomically
from kedge_agent.errors import NetworkError, PeerDataError, SettingsError
from kedge_agent.facts import Facts
from kedge_agent.settings import Settings, TlsFiles
from kedge_agent.trust.keys import TrustedKeys
from kedge_wire.statement import NAME

logger = logging.getLogger(__name__)

API_VERSION: Final = "kedge.dev/v1alpha1"
MAX_FILE_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 1024 * 1024

_DEVICE: Final = re.compile(r"d-[0-9a-f]{16}")
_REFUSALS: Final = {
    401: "the token is not known, has been used by another device, or has expired",
    403: "the token does not allow this device to enrol in this namespace",
    409: "the token was already used with another key",
}
_ERROR_STATUS: Final = 400
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentFile:
    """What the operator hands to a device."""

    server: str  # https://host:port
    namespace: str
    token: str
    ca: str  # PEM
    gateway: str  # host:port
    keys: Mapping[str, Any]  # directorKeys and publisherKeys

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check the file.

        Raises:
            SettingsError: It cannot be read, or a member is missing or wrong.
        """
        document = _document(path, what="enrolment file")
        if document.get("kind") != "EnrolmentFile":
            raise SettingsError(
                f"enrolment file: expected kind EnrolmentFile, "
                f"found {document.get('kind')!r:.80}",
                element=str(path),
            )
        texts = {
            name: _text(document, name)
            for name in ("server", "namespace", "token", "ca", "gateway")
        }
        if not texts["server"].startswith("https://"):
            raise SettingsError(
                f"enrolment file: server: expected https://, "
                f"found {texts['server']!r:.120}",
                element="server",
            )
        if not NAME.fullmatch(texts["namespace"]):
            raise SettingsError(
                f"enrolment file: namespace: expected a DNS label, "
                f"found {texts['namespace']!r:.80}",
                element="namespace",
            )
        TrustedKeys.from_json(document)
        keys = {name: document[name] for name in ("directorKeys", "publisherKeys")}
        return cls(keys=keys, **texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An enrolled device."""

    device: str  # d-<16 hex>
    tenant: str
    gateway: str
    server: str
    keys: TrustedKeys

    @classmethod
    def load(cls, settings: Settings) -> Self | None:
        """Return the identity, or None where the device is not enrolled.

        Raises:
            SettingsError: There is one, and it cannot be used.
        """
        path = settings.identity_dir / "trust.json"
        if not path.exists():
            return None
        document = _document(path, what="identity")
        return cls(
            device=_text(document, "device"),
            tenant=_text(document, "tenant"),
            gateway=_text(document, "gateway"),
            server=_text(document, "server"),
            keys=TrustedKeys.from_json(document),
        )


def check_enrollable(settings: Settings) -> None:
    """Refuse a start without identity and without a usable enrolment file.

    For callers that have written nothing yet, so that such a start leaves no trace.

    Raises:
        SettingsError: There is no identity, and no file to get one with.
    """
    try:
        enrolled = (settings.identity_dir / "trust.json").exists()
    except OSError:
        return  # it cannot be read: whoever locks the state directory says why
    if not enrolled:
        _file(settings)


async def enrol(settings: Settings, facts: Facts) -> Identity:
    """Return this device's identity; ask for one if it has none.

    Waits, however long it takes, for the network and for an operator's approval.

    Raises:
        SettingsError: No enrolment file, or one that the control plane refuses.
    """
    if identity := Identity.load(settings):
        return identity
    file = _file(settings)
    csr = await asyncio.to_thread(_request, settings, file)
    client = _Client(file, settings)
    backoff = Backoff(first_s=2.0, longest_s=settings.timing.reconnect_max)
    name = ""
    while True:
        try:
            answer = await asyncio.to_thread(client.ask, csr, facts, name)
        except NetworkError as exc:
            logger.warning("enrolment.unreachable: %s", exc)
        else:
            status = _object(answer, "status")
            if status.get("phase") == "Approved" and status.get("certificate"):
                return await asyncio.to_thread(_keep, settings, file, status)
            if status.get("phase") == "Denied":
                raise SettingsError(
                    "enrolment: expected an approval, found it denied", element="token"
                )
            name = str(_object(answer, "metadata").get("name", ""))
            logger.info("enrolment.pending: request=%s", name)
        await asyncio.sleep(backoff.next_s())


def _file(settings: Settings) -> EnrolmentFile:
    if settings.enrolment_file is None:
        raise SettingsError(
            "enrolment: expected an enrolled device or --enrollment FILE, found "
            f"neither in {settings.identity_dir}",
            element=str(settings.state_dir),
        )
    return EnrolmentFile.read(settings.enrolment_file)


class _Client:
    """The two calls of the operator API that a device without identity may make."""

    def __init__(self, file: EnrolmentFile, settings: Settings) -> None:
        self._file = file
        self._url = (
            f"{file.server.rstrip('/')}/apis/{API_VERSION}/namespaces/"
            f"{file.namespace}/enrollmentrequests"
        )
        timing = settings.timing
        self._pool = urllib3.PoolManager(
            num_pools=1,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(settings.tls.ca),
            ssl_minimum_version=TLSVersion.TLSv1_3,
            timeout=urllib3.Timeout(connect=timing.connect, read=timing.read),
            retries=False,
        )

    def ask(self, csr: str, facts: Facts, name: str) -> dict[str, Any]:
        """Create the request, or read it again where its `name` is known."""
        headers = {
            "Authorization": f"Bearer {self._file.token}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        try:
            response = self._pool.request(
                "GET" if name else "POST",
                f"{self._url}/{name}" if name else self._url,
                body=None if name else json.dumps(_body(csr, facts)).encode(),
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            try:
                data = response.read(MAX_ANSWER_BYTES)
            finally:
                response.close()
        except (HTTPError, OSError) as exc:
            raise NetworkError(
                f"enrolment: expected an answer of {self._file.server}, found {exc}",
                element=self._file.server,
            ) from exc
        return _accepted(response.status, data)


def _accepted(status: int, data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    said = str(answer.get("message", "")) if isinstance(answer, dict) else ""
    if status in _REFUSALS:
        raise SettingsError(
            f"enrolment: expected the token to be accepted, found HTTP {status}: "
            f"{_REFUSALS[status]} ({said:.500})",
            element="token",
        )
    if status >= _SERVER_ERROR or status == _TOO_MANY:
        raise NetworkError(
            f"enrolment: expected an answer, found HTTP {status} ({said:.500})"
        )
    if status >= _ERROR_STATUS or not isinstance(answer, dict):
        raise PeerDataError(
            f"enrolment: expected an EnrollmentRequest, found HTTP {status} "
            f"({said:.500})"
        )
    return answer


def _body(csr: str, facts: Facts) -> dict[str, Any]:
    spec = asdict(facts)
    return {
        "apiVersion": API_VERSION,
        "kind": "EnrollmentRequest",
        "metadata": {"generateName": "er-"},
        "spec": {
            "csr": csr,
            "hostname": spec["hostname"],
            "architecture": spec["architecture"],
            "operatingSystem": spec["operating_system"],
            "cpus": spec["cpus"],
            "memoryBytes": spec["memory_bytes"],
        },
    }


def _request(settings: Settings, file: EnrolmentFile) -> str:
    """Make key and signing request, or return the request of an earlier try."""
    tls, folder = settings.tls, settings.identity_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(tls.ca, file.ca.encode())
    csr_path = folder / "csr.pem"
    if csr_path.exists() and tls.key.exists():
        return csr_path.read_text()
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # The control plane chooses the name and ignores this one.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    csr_path.unlink(missing_ok=True)  # never an old request beside a new key
    write_atomically(tls.key, pem)
    write_atomically(csr_path, csr)
    return csr.decode()


def _keep(
    settings: Settings, file: EnrolmentFile, status: Mapping[str, Any]
) -> Identity:
    """Check the certificate against our key and write everything, trust.json last."""
    device, chain = status.get("device"), status.get("certificate")
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise PeerDataError(
            f"enrolment: expected a device id d-<16 hex>, found {device!r:.80}"
        )
    if not isinstance(chain, str):
        raise PeerDataError("enrolment: expected a certificate in PEM")
    _check_certificate(chain.encode(), settings.tls)
    write_atomically(settings.tls.certificate, chain.encode())
    document = {
        "device": device,
        "tenant": file.namespace,
        "gateway": file.gateway,
        "server": file.server,
        **file.keys,
    }
    path = settings.identity_dir / "trust.json"
    write_atomically(path, json.dumps(document, indent=2).encode())
    logger.info("enrolled: device=%s tenant=%s", device, file.namespace)
    identity = Identity.load(settings)
    if identity is None:
        raise SettingsError(f"identity: expected {path}, found nothing")
    return identity


def _check_certificate(chain: bytes, tls: TlsFiles) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(chain)
        key = load_pem_private_key(tls.key.read_bytes(), password=None)
    except ValueError as exc:
        raise PeerDataError(
            f"enrolment: expected a certificate in PEM ({exc})", element="certificate"
        ) from exc
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ours = key.public_key().public_bytes(*form)
    if certificate.public_key().public_bytes(*form) != ours:
        raise PeerDataError(
            "enrolment: expected a certificate for this device's key, found one for "
            "another",
            element="certificate",
        )


def _document(path: Path, *, what: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise SettingsError(
                f"{what}: expected at most {MAX_FILE_BYTES} bytes in {path}",
                element=str(path),
            )
        document = json.loads(data)
    except FileNotFoundError as exc:
        raise SettingsError(
            f"{what}: expected a file, found none at {path}", element=str(path)
        ) from exc
    except OSError as exc:
        raise SettingsError(
            f"{what}: expected to read {path}, found {exc.strerror or exc}",
            element=str(path),
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise SettingsError(
            f"{what}: expected JSON in {path} ({exc})", element=str(path)
        ) from exc
    if not isinstance(document, dict):
        raise SettingsError(f"{what}: expected an object in {path}", element=str(path))
    return document


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{name}: expected text, found {value!r:.80}", element=name)
    return value


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}
