# SPDX-License-Identifier: Apache-2.0
"""What the device believes, and why."""
