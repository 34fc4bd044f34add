# SPDX-License-Identifier: Apache-2.0
"""Protocol version of the device session, announced in Hello."""

from typing import Final

PROTOCOL: Final = 1
"""Raised when an older peer could not make sense of a message; adding fields does not
raise it.
"""
