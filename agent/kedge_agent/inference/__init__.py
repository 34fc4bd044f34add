# SPDX-License-Identifier: Apache-2.0
"""Running models behind one seam."""
