# SPDX-License-Identifier: Apache-2.0
"""The level-based loop that every controller runs in."""
