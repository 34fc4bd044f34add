# SPDX-License-Identifier: Apache-2.0
"""The administrator's kubeconfig: where the API is, whom to trust, a bearer token."""

import base64
from pathlib import Path
from typing import Any

import yaml

from kedge_controlplane.trust.files import write_private

_NAME = "kedge"


def write_kubeconfig(
    path: Path, *, server: str, ca_pem: bytes, token: str, namespace: str = "default"
) -> None:
    """Write a kubeconfig with one context, readable by its owner only."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": _NAME,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": base64.b64encode(ca_pem).decode(),
                },
            }
        ],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [
            {
                "name": _NAME,
                "context": {
                    "cluster": _NAME,
                    "user": "admin",
                    "namespace": namespace,
                },
            }
        ],
        "current-context": _NAME,
    }
    write_private(path, yaml.safe_dump(document, sort_keys=False).encode())


def read_admin_token(path: Path) -> str | None:
    """Return the token that `write_kubeconfig` wrote, None without a file."""
    try:
        document: Any = yaml.safe_load(path.read_bytes())
        token = document["users"][0]["user"]["token"]
    except (FileNotFoundError, yaml.YAMLError, LookupError, TypeError):
        return None
    return token if isinstance(token, str) else None
