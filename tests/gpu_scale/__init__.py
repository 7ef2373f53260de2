# SPDX-License-Identifier: BSD-3-Clause
"""`make gpu-scale`: checks and measures how models scale over the GPUs of this machine, however many."""
