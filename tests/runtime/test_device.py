# SPDX-License-Identifier: BSD-3-Clause
"""Which device a rank gets, and what is said about machines that do not fit."""

import pytest
import torch

from fastertransformer.errors import ModelLoadError
from fastertransformer.runtime.device import check_count, choose_device, no_code


def test_the_cpu_needs_no_gpu():
    assert choose_device("cpu", 3, 8) == torch.device("cpu")


def test_more_ranks_than_gpus_are_refused_with_both_numbers():
    check_count(2, 2)
    with pytest.raises(ModelLoadError, match=r"4 ranks run on this machine.*2 are visible"):
        check_count(4, 2)


def test_a_gpu_without_kernels_is_told_what_the_build_has():
    text = no_code("NVIDIA T4", (7, 5), [80, 89, 90])
    assert "NVIDIA T4 has compute capability 7.5; this build has kernels for 8.0, 8.9, 9.0" in text
    assert "CMAKE_CUDA_ARCHITECTURES=75" in text


@pytest.mark.gpu
def test_ranks_take_the_gpus_in_turn():
    last = torch.cuda.device_count() - 1
    assert choose_device("auto", last, last + 1) == torch.device("cuda", last)
    assert torch.cuda.current_device() == last
    with pytest.raises(ModelLoadError, match=f"{last + 2} ranks"):
        choose_device("cuda", 0, last + 2)
    choose_device("cuda")
