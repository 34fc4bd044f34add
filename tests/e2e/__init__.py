# SPDX-License-Identifier: Apache-2.0
"""The whole product as processes: real server, real agents, real runtimes."""
