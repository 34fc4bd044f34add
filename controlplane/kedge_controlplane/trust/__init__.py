# SPDX-License-Identifier: Apache-2.0
"""Keys, certificates, tokens and orders: who is who, and what is signed."""
