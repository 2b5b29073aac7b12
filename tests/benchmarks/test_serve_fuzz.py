"""The fuzzer for a few seconds; minutes are for `python benchmarks/serve_fuzz.py`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


def test_nothing_hostile_brings_the_server_down(script: Callable[[str], ModuleType]) -> None:
    fuzzer = script("serve_fuzz").fuzz(minutes=20 / 60, number=1)
    assert {kind.split(":")[0] for kind in fuzzer.outcomes} == {"REST", "gRPC", "slow connections"}
    assert fuzzer.outcomes["REST: 413"] + fuzzer.outcomes["gRPC: RESOURCE_EXHAUSTED"] > 0
    assert len(fuzzer.memory) > 0


def test_memory_that_grows_is_told(script: Callable[[str], ModuleType], tmp_path: object) -> None:
    fuzzer = script("serve_fuzz").Fuzzer(target=None, seconds=0, number=0)
    fuzzer.memory = [500 << 20] * 40
    assert fuzzer.growth() == ""
    fuzzer.memory = [(500 + 5 * step) << 20 for step in range(40)]
    assert fuzzer.growth() == "memory grew from 572 to 672 MiB"


def test_an_answer_that_shows_too_much_is_a_failure(script: Callable[[str], ModuleType]) -> None:
    fuzz = script("serve_fuzz")
    fuzzer = fuzz.Fuzzer(target=None, seconds=5, number=0)

    def fail(_: object) -> None:
        raise AssertionError("500: Traceback")

    fuzzer._repeat(fail, 0)
    (failure,) = fuzzer.failures
    assert failure.startswith("fail: ")
    assert failure.endswith("AssertionError: 500: Traceback\n")
    with pytest.raises(AttributeError):
        fuzz.ask_rest(None, b"", "m:predict", {})
