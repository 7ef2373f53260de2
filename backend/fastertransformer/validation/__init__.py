# SPDX-License-Identifier: BSD-3-Clause
"""Checks of one request against a loaded model, with errors in the names of the client's contract."""

from collections.abc import Mapping

from ..messages import AnyRequest, EncodeRequest, EngineInfo
from .encoding import check_encode
from .generation import MAX_LOGITS_BYTES, check_generate, check_logits, num_prefix_tokens
from .values import MAX_BEAM_WIDTH, MAX_SEED

__all__ = ["MAX_BEAM_WIDTH", "MAX_LOGITS_BYTES", "MAX_SEED", "check", "check_logits", "num_prefix_tokens"]


def check(request: AnyRequest, info: EngineInfo, names: Mapping[str, str] | None = None) -> None:
    """Refuses a request that the model cannot serve.

    Args:
        names: what the client calls a field of a request or its sampling; default the field's own name.

    Raises:
        InvalidRequest: names the field, the value that came and what is allowed.
    """
    if isinstance(request, EncodeRequest):
        check_encode(request, info, names or {})
    else:
        check_generate(request, info, names or {})
