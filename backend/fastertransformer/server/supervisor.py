# SPDX-License-Identifier: BSD-3-Clause
"""Keeps a model instance connected to its engine: reads its steps, notices its death, restarts it."""

import threading
import time
from collections.abc import Callable

from ..errors import EngineDead, ModelLoadError
from ..messages import EngineInfo
from .client import EngineClient
from .launcher import Launcher
from .responder import Attached, Event

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_STABLE_S = 60.0
"""An engine that lived for so long is restarted without the delay that crashes before it had built up."""


class Supervisor:
    """Attaches on construction and then reads in a thread of its own.

    Args:
        post: takes what happens, in order.

    Raises:
        ModelLoadError: the engine did not start.
        OSError: as `Launcher.attach`.
    """

    def __init__(self, launcher: Launcher, post: Callable[[Event], None], log: Callable[[str], None]) -> None:
        self._launcher = launcher
        self._post = post
        self._log = log
        self._delay = _FIRST_DELAY_S
        self._stopping = threading.Event()
        self._client: EngineClient | None = launcher.attach()
        self.info: EngineInfo = self._client.info
        self._post(Attached(self._client))
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        return self._client is not None

    def stop(self) -> None:
        """Leaves the engine; the last instance to do so waits until its processes are gone."""
        self._stopping.set()
        self._launcher.give_up()
        client = self._client
        if client is not None:
            client.close()
        self._thread.join()
        self._launcher.detach(self._client)

    def _run(self) -> None:
        while not self._stopping.is_set():
            attached = time.monotonic()
            error = self._read_until_death()
            self._client = None
            self._post(error)
            if time.monotonic() - attached > _STABLE_S:
                self._delay = _FIRST_DELAY_S
            while self._client is None and not self._stopping.wait(self._delay):
                self._restart()

    def _read_until_death(self) -> EngineDead:
        assert self._client is not None
        try:
            for outputs in self._client.outputs():
                self._post(outputs)
        except EngineDead as error:
            self._client.close()
            return EngineDead(f"{error}; the request was lost and may be sent again")
        raise AssertionError("the outputs of an engine end with its death only")

    def _restart(self) -> None:
        self._delay = min(2 * self._delay, _LONGEST_DELAY_S)
        self._log(f"the engine ended and is restarted; the next try would be after {self._delay:g} s")
        try:
            self._client = self._launcher.attach()
        except (ModelLoadError, OSError) as error:  # a machine that is short of memory may have some later
            self._log(f"the engine could not be restarted: {error}")
        else:
            self.info = self._client.info
            self._post(Attached(self._client))
