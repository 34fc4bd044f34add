# SPDX-License-Identifier: Apache-2.0
"""How messages reach the control plane."""
