# SPDX-License-Identifier: Apache-2.0
"""Manifests of the digits example, as documents."""

from typing import Any

API_VERSION = "kedge.dev/v1alpha1"


def release(
    *, model: int, config: int = 1, component: str = "image-classifier-0.1.0"
) -> dict[str, Any]:
    name = f"digits-{model}-{config}-{component.rpartition('-')[2]}"
    return {
        "apiVersion": API_VERSION,
        "kind": "Release",
        "metadata": {"name": name},
        "spec": {
            "workloads": [
                {
                    "name": "digits",
                    "component": component,
                    "model": f"digits-{model}",
                    "config": f"digits-{config}",
                }
            ]
        },
    }


def fleet(release_name: str, *, canary: bool) -> dict[str, Any]:
    sequence = [{"name": "canary", "limit": 1, "successThreshold": "100%"}]
    return {
        "apiVersion": API_VERSION,
        "kind": "Fleet",
        "metadata": {"name": "digits"},
        "spec": {
            "selector": {"matchLabels": {"app": "digits"}},
            "template": {"spec": {"release": release_name}},
            "rolloutPolicy": {
                "deviceSelection": {"sequence": sequence if canary else []},
                "defaultUpdateTimeout": "2m",
            },
        },
    }
