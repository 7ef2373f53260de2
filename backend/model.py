# SPDX-License-Identifier: BSD-3-Clause
"""Entry point of the Triton Python backend; everything it does is in `fastertransformer.server`."""

import sys
from pathlib import Path
from typing import Any

# The package that lies beside this file, not another version that pip may have installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import triton_python_backend_utils as pb_utils

try:
    from fastertransformer.errors import FasterTransformerError
    from fastertransformer.server.autocomplete import complete
    from fastertransformer.server.service import open_service
except ModuleNotFoundError as missing:
    raise ImportError(
        f"{missing} in {sys.prefix}, whose Python runs this model: install this backend there, with pip"
    ) from None


class TritonPythonModel:
    """One model instance, in a process of its own."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Declares the tensors of the contract where config.pbtxt declares none."""
        return complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Starts or attaches to the engine, where the model has one; returns when it is loaded."""
        try:
            self._service = open_service(args)
        except FasterTransformerError as error:
            raise pb_utils.TritonModelException(f"{type(error).__name__}: {error}") from None

    def execute(self, requests: list[Any]) -> None:
        """Takes requests in; those of a model with an engine are answered by another thread."""
        for request in requests:
            self._service.accept(request)

    def is_ready(self) -> bool:
        """Whether there is an engine; false while it is restarted."""
        return self._service.is_ready

    def finalize(self) -> None:
        """Leaves the engine; the last instance to do so ends it."""
        self._service.stop()
