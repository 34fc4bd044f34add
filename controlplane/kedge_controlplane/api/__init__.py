# SPDX-License-Identifier: Apache-2.0
"""The operator API: Kubernetes conventions over HTTPS."""
