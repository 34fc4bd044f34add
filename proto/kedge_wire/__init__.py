# SPDX-License-Identifier: Apache-2.0
"""The contract between control plane and device; imports neither of them."""
