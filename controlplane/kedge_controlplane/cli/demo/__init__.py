# SPDX-License-Identifier: Apache-2.0
"""`kedge demo`: a whole fleet on one machine, every part a real process."""
