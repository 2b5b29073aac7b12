"""The error of a call, and which errors are worth another try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tfrec.errors import TfrecError

UNAVAILABLE, DEADLINE_EXCEEDED, NOT_FOUND = "UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND"
_REMEDIES = {
    UNAVAILABLE: "Is a server running there, and not overloaded?",
    DEADLINE_EXCEEDED: "Give it longer with `timeout`.",
    NOT_FOUND: "`status` tells which versions of the model there are.",
}


class CallError(TfrecError):
    """A call that failed, in one line.

    Args:
        server: that was asked.
        model: that was asked for.
        code: name of the gRPC status that says what kind of failure it was; REST's are translated.
        cause: in the words of the server or of the network.
    """

    def __init__(self, server: str, model: str, code: str, cause: str) -> None:
        text = " ".join(cause.split()).rstrip(".") or "no reason given"
        super().__init__(f"{server}, model {model}: {code}: {text}. {_REMEDIES.get(code, '')}".rstrip())
        self.server, self.model, self.code, self.cause = server, model, code, text


@contextmanager
def reading(server: str, model: str, asked: str) -> Iterator[None]:
    """Makes a `CallError` of what goes wrong while an answer is taken apart: another program may have sent it.

    Args:
        server: that answered.
        model: that was asked for.
        asked: what the answer should have been to.
    """
    try:
        yield
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        cause = f"{asked} was answered with something else than expected ({type(error).__name__}: {error})"
        raise CallError(server, model, "INTERNAL", cause) from error
