# SPDX-License-Identifier: Apache-2.0
"""How artifacts reach the disk."""
