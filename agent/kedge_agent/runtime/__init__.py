# SPDX-License-Identifier: Apache-2.0
"""The runtime process: Wasmtime components and ONNX Runtime sessions, served.

The supervisor starts it and speaks to it over a Unix socket; it may die at any time.
"""
