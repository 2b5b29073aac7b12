"""Errors with a gRPC status code, the one currency of failure inside the server."""

from __future__ import annotations

import grpc
import tensorflow as tf

Code = grpc.StatusCode
_BY_NUMBER = {code.value[0]: code for code in Code}


class ServingError(Exception):
    """A request, load or configuration that failed, in the words that the client is told.

    Args:
        code: The gRPC status.
        message: The text; REST answers it as `{"error": message}`.
        http_status: The HTTP status, where it is not the one that belongs to `code`.
    """

    def __init__(self, code: Code, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = http_status

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
    """An INVALID_ARGUMENT error."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def from_exception(error: BaseException) -> ServingError:
    """The `ServingError` that stands for any exception; the text of an unexpected one stays in the log."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, tf.errors.OpError):
        return ServingError(_BY_NUMBER.get(error.error_code, Code.UNKNOWN), error.message)
    if isinstance(error, MemoryError):
        return ServingError(Code.RESOURCE_EXHAUSTED, "The request needs more memory than there is", 503)
    if isinstance(error, RecursionError):
        return invalid("The request is nested too deeply")
    return ServingError(Code.INTERNAL, f"Internal error ({type(error).__name__})")
