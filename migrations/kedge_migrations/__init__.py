# SPDX-License-Identifier: Apache-2.0
"""Alembic migrations, shipped in the wheel so that `kedge migrate` finds them."""
