# SPDX-License-Identifier: Apache-2.0
"""Device sessions: who is connected, what they report, what is sent to them."""
