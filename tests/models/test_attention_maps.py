# SPDX-License-Identifier: BSD-3-Clause
"""Attention maps that clients may ask for: every layer's, for chosen inputs of a packed step."""

from dataclasses import replace

import pytest
import torch
from driver import load_model
from encoder_checkpoints import make
from encoder_driver import metadata_of

from fastertransformer.models import AttentionMaps

LENGTHS = (3, 17, 1, 40)
CHOSEN = (1, 3)


@pytest.mark.parametrize("case", ["t5", "t5-gated", "bert-bare", "mpnet"])
def test_maps_equal_transformers(case, tmp_path):
    reference, model = make(case, tmp_path, attn_implementation="eager"), load_model(tmp_path)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(3, 101, (length,), generator=generator) for length in LENGTHS]
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).tolist()
    maps = AttentionMaps([(bounds[row], bounds[row + 1]) for row in CHOSEN])
    metadata = replace(metadata_of(LENGTHS), maps=maps)
    with torch.inference_mode():
        hidden = model.embed(torch.cat(inputs).int(), metadata.positions, None)
        model.forward(hidden, metadata)
        found = torch.stack(maps.layers).split([LENGTHS[row] ** 2 for row in CHOSEN], 2)
        for row, values in zip(CHOSEN, found, strict=True):
            expected = torch.cat(reference(inputs[row][None], output_attentions=True).attentions)
            assert values.numel() == torch.Size(model.shape("attentions", LENGTHS[row])).numel()
            assert (values.view_as(expected) - expected).abs().max() < 1e-5
