# SPDX-License-Identifier: BSD-3-Clause
"""Kernels are taken away by name: an op's own, and those that compute many ops at once."""

from types import SimpleNamespace

import pytest

from fastertransformer.errors import ModelLoadError
from fastertransformer.ops import decoder_stack_kernel, disable, names_ops, registry


class Kernel:
    """Stands for a compiled one."""


@pytest.fixture(autouse=True)
def build(monkeypatch):
    """One with a kernel of many layers, in which nothing was disabled; what a test disables comes back."""
    monkeypatch.setattr(registry, "_C", SimpleNamespace(cuda=SimpleNamespace(DecoderStack=Kernel)))
    monkeypatch.setattr(registry, "_disabled", set())
    for entry in registry.OPS.values():
        monkeypatch.setattr(entry, "kernels", {"cuda": Kernel})


def test_a_build_has_it_for_some_devices():
    assert decoder_stack_kernel("cuda") is Kernel
    assert decoder_stack_kernel("cpu") is None


def test_without_it_ops_keep_their_kernels():
    disable(["decoder_stack"])
    assert decoder_stack_kernel("cuda") is None
    assert all(entry.kernels for entry in registry.OPS.values())


def test_it_goes_with_the_kernel_of_any_op():
    disable(["rms_norm"])
    assert decoder_stack_kernel("cuda") is None
    assert [name for name, entry in registry.OPS.items() if not entry.kernels] == ["rms_norm"]


def test_nothing_disabled_changes_nothing():
    disable(())
    assert decoder_stack_kernel("cuda") is Kernel


def test_unknown_names_are_refused_with_all_that_there_are():
    with pytest.raises(ModelLoadError, match=r"names 'nonsense'; ops are .*add, .*decoder_stack, .*route"):
        disable(["nonsense"])
    assert decoder_stack_kernel("cuda") is Kernel


def test_bodies_run_for_names_of_ops_alone():
    assert [names_ops(names) for names in ((), ("decoder_stack",), ("decoder_stack", "add"))] == [
        False,
        False,
        True,
    ]
