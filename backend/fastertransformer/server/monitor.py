# SPDX-License-Identifier: BSD-3-Clause
"""The thread for what is slow and not urgent: asks for cancellations, publishes metrics."""

import threading
import time
import traceback
from collections.abc import Callable

from .metrics import Metrics
from .responder import Cancelled, Responder

_CANCEL_PERIOD_S = 0.15
_PUBLISH_PERIOD_S = 1.0


class Monitor:
    """Starts its thread at once; `stop` ends it."""

    def __init__(self, responder: Responder, metrics: Metrics, log: Callable[[str], None]) -> None:
        self._responder = responder
        self._metrics = metrics
        self._log = log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        publish_at = 0.0
        while not self._stopping.wait(_CANCEL_PERIOD_S):
            self._attempt(self._cancel)
            if time.monotonic() > publish_at:
                publish_at = time.monotonic() + _PUBLISH_PERIOD_S
                self._attempt(self._metrics.publish)

    def _cancel(self) -> None:
        for exchange in self._responder.live():
            if exchange.reply.is_cancelled():
                self._responder.post(Cancelled(exchange))

    def _attempt(self, action: Callable[[], None]) -> None:
        """A failed message to the server is reported, and tried again in the next round."""
        try:
            action()
        except Exception:
            self._log(traceback.format_exc())
