"""`python -m tfrec.media.worker FD`: a decoding process; see `tfrec.media.pool`."""

from __future__ import annotations

import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

import cv2

from tfrec.data.schema import MediaSource
from tfrec.media.container import MediaError
from tfrec.media.read import Decoded, DecodeSettings, main_path, read_media

_MEMORY_LIMIT_BYTES = 6 * 2**30  # address space; what asks for more is a bomb


def serve(connection: Connection) -> None:
    """Says that it is ready, then answers each `(MediaSource, DecodeSettings)` until the other end closes.

    An answer is frames and waveform, or a `MediaError`.
    """
    connection.send(None)
    while True:
        try:
            source, settings = connection.recv()
        except EOFError:
            return
        with suppress(BrokenPipeError):  # the parent was killed: the next `recv` ends the loop
            connection.send(_answer(source, settings))


def _answer(source: MediaSource, settings: DecodeSettings) -> Decoded | MediaError:
    try:
        return read_media(source, settings)
    except MediaError as error:
        return error
    except MemoryError:
        return MediaError(main_path(source), "it takes too much memory to decode", lasting=False)
    except Exception as error:  # whatever a decoder thinks of is about this file only
        return MediaError(main_path(source), f"cannot be decoded ({type(error).__name__}: {error})")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops its workers
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)
    serve(Connection(int(sys.argv[1])))
