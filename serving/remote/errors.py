"""The error of a call, and which errors are worth another try."""

from __future__ import annotations

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
