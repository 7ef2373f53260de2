# SPDX-License-Identifier: BSD-3-Clause
"""What the names of data types in configurations mean to torch."""

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
