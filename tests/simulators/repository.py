# SPDX-License-Identifier: Apache-2.0
"""A director, a publisher and the blob store of one test.

`Repository` signs orders and statements; `BlobServer` answers `/blobs/sha256/<hex>`
over HTTPS to whoever has a certificate of the test's authority, and enrolment requests
to whoever has the token.
"""

import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer._crypto_signer import CryptoSigner

from kedge_agent.trust.keys import TrustedKeys
from kedge_wire import dsse
from kedge_wire.statement import ArtifactKind, Statement, TensorSpec
from kedge_wire.v1.order_pb2 import Artifact, Envelope, Order, Workload
from tests.simulators.pki import Authority

DEVICE = "d-0123456789abcdef"
TENANT = "default"
TOKEN = "one-time-token"

KINDS = {
    ArtifactKind.COMPONENT: Artifact.Kind.KIND_COMPONENT,
    ArtifactKind.MODEL: Artifact.Kind.KIND_MODEL,
    ArtifactKind.CONFIG: Artifact.Kind.KIND_CONFIG,
}
MODEL_INPUT = TensorSpec(name="image", datatype="FP32", shape=(-1, 4))
MODEL_OUTPUT = TensorSpec(name="logits", datatype="FP32", shape=(-1, 2))


def key_document(signer: CryptoSigner) -> dict[str, Any]:
    return {**signer.public_key.to_dict(), "keyid": signer.public_key.keyid}


@dataclass
class Repository:
    """Keys, and the artifacts that were signed with them."""

    director: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    publisher: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def key_documents(self) -> dict[str, Any]:
        return {
            "directorKeys": [key_document(self.director)],
            "publisherKeys": {TENANT: [key_document(self.publisher)]},
        }

    @property
    def keys(self) -> TrustedKeys:
        return TrustedKeys.from_json(self.key_documents)

    def statement(self, kind: ArtifactKind, data: bytes) -> Statement:
        ports = kind != ArtifactKind.CONFIG
        return Statement(
            kind=kind,
            namespace=TENANT,
            name=f"digits-{kind}",
            version="1",
            sha256=hashlib.sha256(data).hexdigest(),
            length=len(data),
            inputs=(MODEL_INPUT,) if ports else (),
            outputs=(MODEL_OUTPUT,) if ports else (),
        )

    def artifact(
        self, statement: Statement, *, signer: CryptoSigner | None = None
    ) -> Artifact:
        envelope = dsse.sign(
            statement.to_bytes(), dsse.ARTIFACT_TYPE, signer or self.publisher
        )
        return Artifact(
            kind=KINDS[statement.kind],
            name=statement.name,
            version=statement.version,
            sha256=statement.sha256,
            length=statement.length,
            statement=envelope,
        )

    def publish(self, kind: ArtifactKind, data: bytes) -> Artifact:
        statement = self.statement(kind, data)
        self.blobs[statement.sha256] = data
        return self.artifact(statement)

    def workload(
        self, name: str = "digits", *, model: bytes = b"model", **config: Any
    ) -> Workload:
        """One triple; `config` is what the simulated runtime obeys."""
        document = json.dumps(config, sort_keys=True).encode()
        return Workload(
            name=name,
            tenant=TENANT,
            component=self.publish(ArtifactKind.COMPONENT, b"component"),
            model=self.publish(ArtifactKind.MODEL, model),
            config=self.publish(ArtifactKind.CONFIG, document),
        )

    def order(
        self,
        generation: int,
        *workloads: Workload,
        template: str = "",
        issued: datetime | None = None,
        lasts: timedelta = timedelta(hours=1),
    ) -> Order:
        issued = issued or datetime.now(UTC)
        order = Order(
            device=DEVICE,
            tenant=TENANT,
            generation=generation,
            template_version=template or (f"t-{generation}" if workloads else ""),
            workloads=workloads,
        )
        order.issued.FromDatetime(issued)
        order.expires.FromDatetime(issued + lasts)
        return order

    def sign(self, order: Order, *, signer: CryptoSigner | None = None) -> Envelope:
        return dsse.sign(
            order.SerializeToString(), dsse.ORDER_TYPE, signer or self.director
        )

    def signed(self, generation: int, **config: Any) -> Envelope:
        """An order of one workload, whose artifacts depend on `config` alone."""
        model = json.dumps(config, sort_keys=True).encode() * 100
        return self.sign(self.order(generation, self.workload(model=model, **config)))

    def altered(self, statement: Statement, **changes: Any) -> Artifact:
        """An artifact of another statement, well signed."""
        return self.artifact(replace(statement, **changes))


Fault = Callable[[BaseHTTPRequestHandler, bytes], bool]
"""Answers a blob request in its own way, and says so."""


class BlobServer:
    """HTTPS on 127.0.0.1, for one test. `requests` are the paths with their ranges."""

    def __init__(
        self, blobs: Mapping[str, bytes], authority: Authority, folder: Path
    ) -> None:
        self.blobs, self.authority = blobs, authority
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault | None = None
        self.pending_asks = 0
        self.answers: dict[str, dict[str, Any]] = {}
        issued = authority.server()
        pem, ca = folder / "server.pem", folder / "clients.pem"
        pem.write_bytes(issued.key + issued.certificate)
        ca.write_bytes(authority.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        self.context = context
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._http = _Server(("127.0.0.1", 0), Handler)
        # The handshake happens in the connection's own thread, at its first read.
        self._http.socket = context.wrap_socket(
            self._http.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.url = f"https://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def enrol(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer the same request in the same way."""
        csr = body["spec"]["csr"]
        if csr not in self.answers:
            request = x509.load_pem_x509_csr(csr.encode())
            key = request.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            status = {
                "phase": "Approved",
                "device": DEVICE,
                "certificate": self.authority.sign_key(key, DEVICE).decode(),
            }
            self.answers[csr] = {"metadata": {"name": "er-1"}, "status": status}
        return self.poll(csr)

    def poll(self, csr: str) -> dict[str, Any]:
        if self.pending_asks:
            self.pending_asks -= 1
            return {"metadata": {"name": "er-1"}, "status": {"phase": "Pending"}}
        return self.answers[csr]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server_of: BlobServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server = self.server_of
        server.requests.append((self.path, self.headers.get("Range", "")))
        if self.path.startswith("/apis/"):
            self._json(200, server.poll(next(iter(server.answers))))
            return
        assert isinstance(self.connection, ssl.SSLSocket)
        data = server.blobs.get(self.path.removeprefix("/blobs/sha256/"))
        if not self.connection.getpeercert() or data is None:
            self._json(404 if data is None else 403, {"message": "refused"})
            return
        if server.fault is not None and server.fault(self, data):
            return
        self.send_blob(data)

    def send_blob(self, data: bytes, *, cut_at: int | None = None) -> None:
        """Send from the range's start, and no further than `cut_at`."""
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:cut_at])
        if cut_at is not None:
            self.close_connection = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server_of.requests.append((self.path, ""))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json(401, {"kind": "Status", "message": "unknown token"})
            return
        self._json(201, self.server_of.enrol(body))

    def _json(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def cut_after(count: int) -> Fault:
    """Close the connection `count` bytes after where the range begins."""

    def fault(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
        assert isinstance(handler, _Handler)
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.send_blob(data, cut_at=start + count)
        return True

    return fault


def flip_a_bit(handler: BaseHTTPRequestHandler, data: bytes) -> bool:
    assert isinstance(handler, _Handler)
    handler.send_blob(data[:-1] + bytes([data[-1] ^ 1]))
    return True
