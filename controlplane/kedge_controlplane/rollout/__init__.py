# SPDX-License-Identifier: Apache-2.0
"""Which device may move when: pure decisions, no I/O."""
