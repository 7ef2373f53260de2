# SPDX-License-Identifier: BSD-3-Clause
"""All cases of some models, each once although several models have it."""

from dataclasses import dataclass

from ....models.spec import ModelSpec
from ..kind import read_model
from ..shapes import shape_folder
from .attention import OTHER_HEADS, decode_cases, disentangled_cases, encoder_cases, heads_of, prefill_cases
from .beams import beam_cases
from .case import Case
from .experts import expert_cases
from .products import product_cases, prompt_cases
from .sampling import sampling_cases
from .tokenwise import tokenwise_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    rows: list[int]
    """Of products and of logits."""
    tokens: list[int]
    decode: list[tuple[int, int]]
    """Sequences, keys of each; the last one also with heads that no shape has."""
    prefill: list[tuple[int, int]]
    """Prompts, tokens of each."""


def all_cases(specs: list[ModelSpec], itemsize: int, sizes: Sizes) -> list[Case]:
    """In the order in which they are reported."""
    heads = list(dict.fromkeys(heads_of(spec) for spec in specs))
    cases = [case for spec in specs for case in product_cases(spec, itemsize, sizes.rows)]
    cases += [case for spec in specs for case in prompt_cases(spec, itemsize, sizes.prefill)]
    cases += decode_cases(heads, itemsize, sizes.decode)
    cases += decode_cases(OTHER_HEADS, itemsize, sizes.decode[-1:])
    cases += prefill_cases(heads, itemsize, sizes.prefill)
    cases += encoder_cases(heads, itemsize, sizes.prefill)
    cases += disentangled_cases(heads, itemsize, sizes.prefill)
    cases += [case for spec in specs for case in tokenwise_cases(spec, itemsize, sizes.tokens)]
    cases += [case for spec in specs for case in sampling_cases(spec, sizes.rows)]
    cases += [case for spec in specs for case in beam_cases(spec, itemsize, sizes.rows)]
    cases += [case for spec in specs for case in expert_cases(spec, itemsize, sizes.rows)]
    return list({(case.op, case.sizes): case for case in cases}.values())


def spec_of_shape(name: str) -> ModelSpec:
    """Raises: ModelLoadError: no such shape, or its family is not supported."""
    with shape_folder(name) as folder:
        return read_model(folder, "dummy")[0]
