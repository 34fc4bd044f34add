# SPDX-License-Identifier: Apache-2.0
"""What looks into uploaded bytes: components, models and configuration."""
