# SPDX-License-Identifier: Apache-2.0
"""Controllers: read everything about one object, decide, write, record."""
