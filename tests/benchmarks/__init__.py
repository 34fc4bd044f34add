# SPDX-License-Identifier: Apache-2.0
"""Benchmarks behind `make bench BENCH=name`; one JSON line a goal."""
