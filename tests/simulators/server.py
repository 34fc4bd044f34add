# SPDX-License-Identifier: Apache-2.0
"""A whole control plane on free ports, in the test's event loop."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from kedge_controlplane.runtime import ServerInfo, serve
from kedge_controlplane.settings import Limits, read_settings
from tests.simulators.enrolled_device import Identity, csr_pem, key_pem, new_key

START_S = 20.0
APIS = "/apis/kedge.dev/v1alpha1"
DEFAULT = f"{APIS}/namespaces/default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The administrator's HTTP client."""

    info: ServerInfo
    http: httpx.AsyncClient
    root_pem: bytes

    async def create(self, plural: str, document: Mapping[str, Any]) -> dict[str, Any]:
        return self._body(await self.http.post(f"{DEFAULT}/{plural}", json=document))

    async def get(self, plural: str, name: str) -> dict[str, Any]:
        return self._body(await self.http.get(f"{DEFAULT}/{plural}/{name}"))

    async def enrol(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Identity:
        """Enrol a device over HTTP, as a device does."""
        made = await self.create("enrollmenttokens", {"spec": {"labels": labels or {}}})
        key = key or new_key()
        answer = self._body(
            await self.http.post(
                f"{DEFAULT}/enrollmentrequests",
                headers={"Authorization": f"Bearer {made['status']['token']}"},
                json={
                    "apiVersion": "kedge.dev/v1alpha1",
                    "kind": "EnrollmentRequest",
                    "metadata": {"generateName": "er-"},
                    "spec": {"csr": csr_pem(key), "hostname": "sim"},
                },
            )
        )
        return Identity(
            namespace="default",
            device=answer["status"]["device"],
            key_pem=key_pem(key),
            certificate_pem=answer["status"]["certificate"].encode(),
            root_pem=self.root_pem,
        )

    def _body(self, response: httpx.Response) -> dict[str, Any]:
        body: dict[str, Any] = response.json()
        assert response.is_success, body
        return body


@asynccontextmanager
async def running_server(
    data: Path, *, limits: Limits | None = None
) -> AsyncIterator[Client]:
    """Start a server on `data`, and stop it in order."""
    settings = read_settings(
        data=data, listen="127.0.0.1:0", gateway="127.0.0.1:0", environment={}
    )
    settings = replace(settings, limits=limits or settings.limits)
    stop = asyncio.Event()
    started: asyncio.Queue[ServerInfo] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            serve(settings, ready=started.put_nowait, stop=stop), name="server"
        )
        async with asyncio.timeout(START_S):
            info = await started.get()
        try:
            async with admin_client(info) as client:
                yield client
        finally:
            stop.set()


@asynccontextmanager
async def admin_client(info: ServerInfo) -> AsyncIterator[Client]:
    """Connect with what the kubeconfig says."""
    root, token = _credentials(Path(info.kubeconfig))
    async with httpx.AsyncClient(
        base_url=info.api,
        verify=tls_context(root),
        headers={"Authorization": f"Bearer {token}"},
        timeout=START_S,
    ) as http:
        yield Client(info=info, http=http, root_pem=root.read_bytes())


def _credentials(kubeconfig: Path) -> tuple[Path, str]:
    user = yaml.safe_load(kubeconfig.read_bytes())["users"][0]["user"]
    return kubeconfig.parent / "trust" / "ca.pem", user["token"]


def tls_context(root: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(root))
