# SPDX-License-Identifier: Apache-2.0
"""The control plane: operator API, controllers, rollouts, device sessions."""
