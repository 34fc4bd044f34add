# SPDX-License-Identifier: Apache-2.0
"""Immutable bytes by digest."""
