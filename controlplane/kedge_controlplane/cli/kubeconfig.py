# SPDX-License-Identifier: Apache-2.0
"""Reads a kubeconfig: the same file that kubectl uses, and as strictly as it needs.

Only what Kedge's server understands is accepted: HTTPS, a bearer token, a certificate
authority. Anything that would send the token to a server that nobody checked is
refused.
"""

import base64
import binascii
import os
from pathlib import Path
from typing import Any, Final

import yaml

from kedge_controlplane.client import Endpoint
from kedge_controlplane.errors import InputError

LOCAL: Final = Path("kedge-data/kubeconfig")
"""Where `kedge server` writes it, seen from the folder it was started in."""

_ADVICE: Final = (
    "Give one with --kubeconfig, or set KUBECONFIG; "
    "`kedge server` writes one to its data directory."
)
_MAX_BYTES: Final = 1024 * 1024


def locate(given: str | None) -> Path:
    """The kubeconfig to use: the given one, the server's beside us, or kubectl's.

    Raises:
        InputError: There is none.
    """
    if given:
        candidates = [Path(part) for part in given.split(os.pathsep) if part]
    else:
        candidates = [LOCAL, Path.home() / ".kube" / "config"]
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(str(path) for path in candidates)
    raise InputError(f"expected a kubeconfig, found none at {looked}", advice=_ADVICE)


def read_endpoint(path: Path, *, namespace: str | None = None) -> Endpoint:
    """Read the current context of a kubeconfig.

    Raises:
        InputError: Not a kubeconfig, or one that asks for what Kedge does not do.
    """
    document = _load(path)
    context = _named(path, document, "contexts", "context", _current(path, document))
    cluster = _named(path, document, "clusters", "cluster", context.get("cluster"))
    user = _named(path, document, "users", "user", context.get("user"))
    server = str(cluster.get("server", ""))
    if not server.startswith("https://"):
        raise InputError(f"{path}: expected an https:// server, found {server!r:.200}")
    if cluster.get("insecure-skip-tls-verify"):
        raise InputError(
            f"{path}: expected a certificate authority, found insecure-skip-tls-verify"
        )
    return Endpoint(
        server=server.rstrip("/"),
        token=_token(path, user),
        ca_pem=_authority(path, cluster),
        namespace=namespace or str(context.get("namespace") or "default"),
        proxy=str(cluster.get("proxy-url") or ""),
        source=str(path),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: expected at most {_MAX_BYTES} bytes")
        document = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: expected a kubeconfig: {exc}") from exc
    if not isinstance(document, dict) or document.get("kind") != "Config":
        raise InputError(f"{path}: expected a kubeconfig (kind: Config)")
    return document


def _current(path: Path, document: dict[str, Any]) -> Any:
    current = document.get("current-context")
    if not current:
        raise InputError(f"{path}: expected a current-context, found none")
    return current


def _named(
    path: Path, document: dict[str, Any], group: str, member: str, name: Any
) -> dict[str, Any]:
    for entry in document.get(group) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(member)
            if isinstance(value, dict):
                return value
    raise InputError(f"{path}: expected {name!r:.80} among {group}, found none")


def _token(path: Path, user: dict[str, Any]) -> str:
    if file := user.get("tokenFile"):
        try:
            return (path.parent / str(file)).read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise InputError(f"{path}: tokenFile: {exc}") from exc
    token = user.get("token")
    if not isinstance(token, str) or not token:
        raise InputError(
            f"{path}: expected its user to have a token, found "
            f"{', '.join(sorted(map(str, user))) or 'nothing'}",
            advice=_ADVICE,
        )
    return token


def _authority(path: Path, cluster: dict[str, Any]) -> str:
    try:
        if data := cluster.get("certificate-authority-data"):
            return base64.b64decode(str(data), validate=True).decode("ascii")
        if file := cluster.get("certificate-authority"):
            return (path.parent / str(file)).read_text("ascii")
    except (OSError, binascii.Error, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: certificate authority: {exc}") from exc
    return ""
