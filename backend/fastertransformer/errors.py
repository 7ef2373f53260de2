# SPDX-License-Identifier: BSD-3-Clause
"""The errors that cross a border: each one's text is what the user reads."""


class FasterTransformerError(Exception):
    """Base of every error that is meant for a user."""


class InvalidRequest(FasterTransformerError):
    """One request is wrong; names the tensor or parameter, what came and what is allowed."""


class ModelLoadError(FasterTransformerError):
    """Configuration, checkpoint or machine do not fit together; nothing was loaded."""


class Overloaded(FasterTransformerError):
    """The queue is full; the client may try again later."""


class EngineDead(FasterTransformerError):
    """The engine process ended; requests in flight are lost and may be sent again."""
