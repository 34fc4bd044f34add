# SPDX-License-Identifier: Apache-2.0
"""Whether an object may be stored: what a schema cannot say."""
