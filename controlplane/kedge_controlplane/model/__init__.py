# SPDX-License-Identifier: Apache-2.0
"""Kinds as pydantic models, one file each; no I/O. `registry` lists them."""
