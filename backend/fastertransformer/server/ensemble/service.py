# SPDX-License-Identifier: BSD-3-Clause
"""One instance of a model without an engine."""

import traceback
from collections.abc import Mapping
from typing import Any, Protocol

from ...errors import FasterTransformerError
from .. import parameters
from ..protocol import Array
from ..triton import TritonReply, log_error, read_sequence, read_tensors
from .postprocessing import Postprocessing
from .preprocessing import Preprocessing


class Step(Protocol):
    """Reads requests of one set of tensors, and computes what they ask for."""

    input_types: dict[str, Any]
    """Numpy types of the inputs that config.pbtxt declares."""

    def compute(self, tensors: Mapping[str, Array], is_first: bool) -> Mapping[str, Array]:
        """Raises: InvalidRequest. Args: is_first: whether the request begins a sequence."""
        ...


class StepService:
    """What `TritonPythonModel` passes its calls on to. Raises ModelLoadError."""

    is_ready = True

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        takes_text = any(entry["name"] == "QUERY" for entry in model_config["input"])
        kind = Preprocessing if takes_text else Postprocessing
        self._step: Step = kind(model_config, parameters.read(model_config))
        self._batched = model_config["max_batch_size"] > 0

    def accept(self, request: Any) -> None:
        """Answers. Never raises: one bad request must not end the others."""
        reply = TritonReply(request)
        try:
            tensors = read_tensors(request, self._step.input_types, self._batched)
            _, is_first, _ = read_sequence(request)
            outputs = self._step.compute(tensors, is_first)
        except Exception as error:
            if not isinstance(error, FasterTransformerError):
                log_error(traceback.format_exc())
            reply.fail(error)
        else:
            reply.send(outputs, final=True)

    def stop(self) -> None:
        """Nothing runs."""
