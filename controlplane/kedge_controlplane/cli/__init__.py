# SPDX-License-Identifier: Apache-2.0
"""`kedge`: what operators type."""
