# SPDX-License-Identifier: Apache-2.0
"""The device agent: a light supervisor and the runtime processes it starts."""
