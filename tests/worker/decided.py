# SPDX-License-Identifier: BSD-3-Clause
"""Random models whose next token is no matter of rounding."""

from typing import TypeVar

import torch

Model = TypeVar("Model", bound=torch.nn.Module)


def decided(model: Model, std: float = 0.25) -> Model:
    """`model` for inference, with matrices drawn so widely that the best logits lie apart."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=std)
    return model.eval()
