# SPDX-License-Identifier: Apache-2.0
"""Runs components: one engine, pools of instances, a thread for each instance."""
