# SPDX-License-Identifier: Apache-2.0
"""JSON merge patch (RFC 7386): members replace, null removes, lists are whole."""

from typing import Any


def merge(target: Any, patch: Any) -> Any:
    """Return `target` with `patch` applied; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result
