"""`python -m serving.server`: the embedded model server, with the flags and the protocol of `tensorflow_model_server`.

For machines without Docker, and for tests; production uses TensorFlow Serving itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from serving.embedded.flags import Flags, parse_flags

SWITCH_SECONDS = 0.0005  # the event loop must not wait long for a worker thread to hand over the interpreter
_FAILED = 255  # the exit code of tensorflow_model_server


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is told to stop."""
    flags = parse_flags(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns programmers of what will be removed
    # TensorFlow 2.16 reports CUDA plugins that register twice as errors, on machines without a GPU too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.setswitchinterval(SWITCH_SECONDS)
    code = _run(flags)
    logging.shutdown()
    os._exit(code)  # TensorFlow's and the pools' threads are not waited for; requests have been drained


def _run(flags: Flags) -> int:
    # TensorFlow is imported here, so that `--help` answers at once.
    from serving.embedded.errors import ServingError
    from serving.embedded.lifecycle import serve

    try:
        asyncio.run(serve(flags))
    except (ServingError, OSError, RuntimeError) as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr, flush=True)
        return _FAILED
    return 0


if __name__ == "__main__":
    main()
