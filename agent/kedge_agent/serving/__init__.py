# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over HTTP and gRPC."""
