# SPDX-License-Identifier: Apache-2.0
"""Documents as operators send them."""

from typing import Any

API_VERSION = "kedge.dev/v1alpha1"


def document(kind: str, name: str | None, **members: Any) -> dict[str, Any]:
    labels = members.pop("labels", {})
    metadata = {"labels": labels} | ({} if name is None else {"name": name})
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": metadata,
    } | members


def fleet(
    name: str = "cameras", *, release: str = "r-1", **labels: str
) -> dict[str, Any]:
    spec = {"selector": {}, "template": {"spec": {"release": release}}}
    return document("Fleet", name, spec=spec, labels=labels)


def device(name: str = "d-1", **labels: str) -> dict[str, Any]:
    return document("Device", name, labels=labels)


def release(name: str = "r-1", *, model: str = "digits-1") -> dict[str, Any]:
    workload = {"name": "digits", "component": "c-1", "model": model, "config": "k-1"}
    return document("Release", name, spec={"workloads": [workload]})
