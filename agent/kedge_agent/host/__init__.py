# SPDX-License-Identifier: Apache-2.0
"""What the host provides to components: tensors, models and the log."""
