# SPDX-License-Identifier: Apache-2.0
"""The operator API from the caller's side: JSON documents, and blobs as bytes.

One server, trusted by the certificate authority that its kubeconfig names; one
namespace. Not for several threads. Every answer that is an error is raised as the very
error that the server raised; every wait ends. Nothing is repeated by itself: what is
safe to repeat, the caller knows.
"""

import json
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from kedge_controlplane import errors
from kedge_controlplane.errors import (
    Cause,
    InputError,
    NotFoundError,
    StatusError,
    UnauthorizedError,
    UnreachableError,
)
from kedge_controlplane.model.meta import API_VERSION
from kedge_controlplane.model.registry import Kind

Document = dict[str, Any]

PAGE: Final = 500
"""Objects per list request."""

_UNKNOWN_AUTHORITY: Final = frozenset({7, 18, 19, 20, 21})
"""OpenSSL's X509_V_ERR_*: no chain of valid signatures up to an authority we know."""

TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
SLOW: Final = httpx.Timeout(180.0, connect=10.0)
"""For writes: the server looks into an artifact before it answers."""

_ERRORS: Final[dict[str, type[StatusError]]] = {
    cls.reason: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, StatusError)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the API is, whom to trust, who we are."""

    server: str
    token: str
    ca_pem: str = ""  # empty: the system's authorities
    namespace: str = "default"
    proxy: str = ""
    source: str = "the kubeconfig"  # where we read this, for messages


class Client:
    """A connection to one API server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        if not endpoint.token.isascii() or not endpoint.token.isprintable():
            raise InputError("expected a token of printable ASCII, found other text")
        try:
            self._http = httpx.Client(
                base_url=endpoint.server,
                headers={"Authorization": f"Bearer {endpoint.token}"},
                verify=_trust(endpoint),
                timeout=TIMEOUT,
                proxy=endpoint.proxy or None,
                # A proxy or .netrc of the environment has no say in whom we talk to.
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError) as exc:
            raise InputError(
                f"expected URLs of a server and its proxy, found "
                f"{endpoint.server!r:.200} and {endpoint.proxy!r:.200}: {exc}"
            ) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------ objects
    def get(self, kind: Kind, name: str) -> Document:
        """Read one object. Raises NotFoundError."""
        return self._json("GET", self._path(kind.plural, name))

    def find(self, kind: Kind, name: str) -> Document | None:
        """Read one object, None where it is not there."""
        try:
            return self.get(kind, name)
        except NotFoundError:
            return None

    def list(
        self, kind: Kind, *, selector: str = "", name: str = ""
    ) -> tuple[list[Document], str]:
        """Read all objects of a kind, or the one of a name, if it is there.

        Also returns the resourceVersion to watch from.
        """
        items: list[Document] = []
        params: dict[str, str | int] = {"limit": PAGE, **_selection(selector, name)}
        while True:
            page = self._json("GET", self._path(kind.plural), params=params)
            # Items of a list come without their type, as in Kubernetes.
            envelope = {"apiVersion": API_VERSION, "kind": kind.kind}
            items += [envelope | item for item in page["items"]]
            params["continue"] = page["metadata"].get("continue", "")
            if not params["continue"]:
                return items, page["metadata"]["resourceVersion"]

    def watch(
        self, kind: Kind, *, since: str, selector: str = "", name: str = ""
    ) -> Iterator[Document]:
        """Yield events after `since` until the server ends the stream.

        Raises GoneError where the server no longer has them all: list again.
        """
        params: dict[str, str | int] = {
            "watch": "true",
            "resourceVersion": since,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": 300,
            **_selection(selector, name),
        }
        request = self._http.build_request(
            "GET",
            self._path(kind.plural),
            params=params,
            timeout=httpx.Timeout(330.0, connect=10.0),
        )
        with self._translated():
            response = self._http.send(request, stream=True)
            try:
                self._refuse(response)
                for line in response.iter_lines():
                    yield json.loads(line)
            finally:
                response.close()

    def create(
        self, kind: Kind, document: Document, *, dry_run: bool = False
    ) -> Document:
        """Raises AlreadyExistsError, InvalidError."""
        return self._write("POST", self._path(kind.plural), document, dry_run=dry_run)

    def replace(
        self, kind: Kind, document: Document, *, dry_run: bool = False
    ) -> Document:
        """Raises ConflictError where the object changed since `document` was read."""
        path = self._path(kind.plural, document["metadata"]["name"])
        return self._write("PUT", path, document, dry_run=dry_run)

    def delete(self, kind: Kind, name: str) -> None:
        """Raises NotFoundError."""
        self._json("DELETE", self._path(kind.plural, name))

    # ------------------------------------------------------------ the rest
    def new_enrolment_token(
        self, *, labels: dict[str, str], ttl_seconds: int
    ) -> Document:
        """Ask for a one-time token; its status holds it, and nothing else ever will."""
        spec = {"labels": labels, "ttlSeconds": ttl_seconds}
        document = {
            "apiVersion": API_VERSION,
            "kind": "EnrollmentToken",
            "spec": spec,
        }
        return self._write(
            "POST", self._path("enrollmenttokens"), document, dry_run=False
        )

    def facts(self) -> Document:
        """What the server says of itself: device gateway, director's keys, version."""
        return self._json("GET", "/.well-known/kedge.json")

    def blob_length(self, digest: str) -> int | None:
        """Bytes of a stored blob, None where there is none."""
        with self._translated():
            response = self._http.head(f"/blobs/sha256/{digest}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        self._refuse(response)
        return int(response.headers["Content-Length"])

    def put_blob(self, digest: str, chunks: Iterable[bytes], *, length: int) -> None:
        """Upload a blob; the server keeps it only if the digest is right."""
        with self._translated():
            response = self._http.put(
                f"/blobs/sha256/{digest}",
                content=chunks,
                headers={
                    "Content-Length": str(length),
                    "Content-Type": "application/octet-stream",
                },
                timeout=SLOW,
            )
        self._refuse(response)

    # ------------------------------------------------------------ below
    def _path(self, plural: str, name: str = "") -> str:
        namespace = quote(self.endpoint.namespace, safe="")
        base = f"/apis/{API_VERSION}/namespaces/{namespace}/{plural}"
        return f"{base}/{quote(name, safe='')}" if name else base

    def _write(
        self, method: str, path: str, document: Document, *, dry_run: bool
    ) -> Document:
        params: dict[str, str | int] = {"dryRun": "All"} if dry_run else {}
        return self._json(method, path, params=params, document=document, timeout=SLOW)

    def _json(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str | int] | None = None,
        document: Document | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> Document:
        with self._translated():
            response = self._http.request(
                method, path, params=params, json=document, timeout=timeout
            )
        self._refuse(response)
        return _object(response)

    def _refuse(self, response: httpx.Response) -> None:
        """Raise what the server raised; say which token it was that it refused."""
        try:
            _refuse(response)
        except UnauthorizedError as exc:
            raise UnauthorizedError(
                f"{self.endpoint.server} refuses the token in {self.endpoint.source}: "
                f"{exc}\nUse the kubeconfig in the data folder of that server."
            ) from exc

    @contextmanager
    def _translated(self) -> Iterator[None]:
        server = self.endpoint.server
        try:
            yield
        except httpx.TimeoutException as exc:
            raise UnreachableError(
                f"expected {server} to answer in time ({type(exc).__name__})",
                advice="Try again; `kedge server` logs what it is doing.",
            ) from exc
        except httpx.TransportError as exc:
            if (problem := _distrust(exc)) is not None:
                raise UnreachableError(
                    f"{server} is not trusted: {problem}",
                    advice="Use the kubeconfig in the data folder of that server, "
                    f"not {self.endpoint.source}.",
                ) from exc
            raise UnreachableError(
                f"expected a Kedge API server at {server}: {exc}",
                advice="Is `kedge server` running, and is this its kubeconfig?",
            ) from exc
        except json.JSONDecodeError as exc:
            raise UnreachableError(f"expected JSON from {server}") from exc


def _selection(selector: str, name: str) -> dict[str, str]:
    fields = {
        "labelSelector": selector,
        "fieldSelector": f"metadata.name={name}" if name else "",
    }
    return {key: value for key, value in fields.items() if value}


def _distrust(error: BaseException) -> str | None:
    """Why a server's certificate was refused, None where it was something else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _UNKNOWN_AUTHORITY:
                return "the server's authority is not the one in this kubeconfig"
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return None


def _trust(endpoint: Endpoint) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=endpoint.ca_pem or None)
    except ssl.SSLError as exc:
        raise InputError(
            f"expected the certificate authority of {endpoint.server} in PEM: {exc}"
        ) from exc


def _object(response: httpx.Response) -> Document:
    try:
        document = response.json()
    except ValueError as exc:
        raise UnreachableError(f"expected JSON from {response.url}") from exc
    if not isinstance(document, dict):
        raise UnreachableError(f"expected a JSON object from {response.url}")
    return document


def _refuse(response: httpx.Response) -> None:
    """Raise what the server raised, if it did."""
    if response.is_success:
        return
    response.read()
    try:
        status = response.json()
        raise _status_error(status)
    except (ValueError, AttributeError, TypeError) as exc:
        raise UnreachableError(
            f"expected a Kedge API server at {response.url}, "
            f"found one that answers {response.status_code}",
        ) from exc


def _status_error(status: Document) -> StatusError:
    details = status.get("details") or {}
    cls = _ERRORS.get(status.get("reason", ""), StatusError)
    return cls(
        str(status.get("message", "the server gave no reason")),
        kind=str(details.get("kind", "")),
        name=str(details.get("name", "")),
        causes=[
            Cause(
                reason=str(cause.get("reason", "")),
                message=str(cause.get("message", "")),
                field=str(cause.get("field", "")),
            )
            for cause in details.get("causes", [])
        ],
        retry_after_s=int(details.get("retryAfterSeconds", 0)),
    )
