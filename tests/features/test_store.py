"""The feature table on disk: what is stored, found, and left after a crash."""

import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from tfrec.errors import TfrecError
from tfrec.features.store import FeatureStore, content_key


def keys(*numbers: int) -> list[bytes]:
    return [content_key(str(number).encode()) for number in numbers]


def rows_of(*numbers: float) -> np.ndarray:
    """Rows `[number, number + 0.5]`."""
    return np.array([[number, number + 0.5] for number in numbers], np.float32)


@pytest.fixture
def folder(tmp_path):
    store = FeatureStore(tmp_path / "table", (2,))
    store.append(keys(3, 1), rows_of(3, 1), np.array([1, 2]))
    store.append(keys(2), rows_of(2), np.array([0]))
    return tmp_path / "table"


def test_keys_tell_parts_apart():
    assert content_key(b"ab", b"c") != content_key(b"a", b"bc") != content_key(b"abc")
    assert len(content_key()) == 32


def test_what_was_stored_is_found_again(folder):
    store = FeatureStore(folder, (2,))
    assert len(store) == 3
    found = store.rows(keys(1, 9, 2, 3))
    np.testing.assert_array_equal(found, [1, -1, 2, 0])
    np.testing.assert_array_equal(store.read(found), [[1, 1.5], [0, 0], [2, 2.5], [3, 3.5]])
    np.testing.assert_array_equal(store.lengths(found), [2, 0, 0, 1])
    assert store.read(found).dtype == np.float16


def test_the_whole_table_in_order_is_the_file_itself(folder):
    table = FeatureStore(folder, (2,)).read(np.arange(3))
    assert isinstance(table, np.memmap)
    np.testing.assert_array_equal(table, rows_of(3, 1, 2))


def test_a_large_selection_does_not_go_into_memory(folder, monkeypatch):
    monkeypatch.setattr("tfrec.features.store._GATHERED_IN_MEMORY_BYTES", 0)
    gathered = FeatureStore(folder, (2,)).read(np.array([2, -1, 0]))
    assert isinstance(gathered, np.memmap)
    np.testing.assert_array_equal(gathered, [[2, 2.5], [0, 0], [3, 3.5]])
    assert sorted(os.listdir(folder)) == ["keys.bin", "values.bin"]


def test_an_empty_table(tmp_path):
    store = FeatureStore(tmp_path / "none", (4, 2))
    np.testing.assert_array_equal(store.rows(keys(1)), [-1])
    assert store.rows([]).shape == (0,)
    np.testing.assert_array_equal(store.read(np.array([-1])), np.zeros((1, 4, 2)))
    assert not (tmp_path / "none").exists()


def test_wrong_shapes_are_refused(folder):
    with pytest.raises(ValueError, match=r"must be of shape \(1, 2\)"):
        FeatureStore(folder, (2,)).append(keys(5), np.zeros((1, 3)), np.array([1]))


@pytest.mark.parametrize(("file", "cut"), [("keys.bin", 1), ("keys.bin", 40), ("values.bin", 1), ("values.bin", 5)])
def test_a_torn_write_costs_the_torn_rows_only(folder, file, cut):
    os.truncate(folder / file, (folder / file).stat().st_size - cut)
    lost = 1 if cut < 5 else 2
    store = FeatureStore(folder, (2,))
    assert len(store) == 3 - lost
    np.testing.assert_array_equal(store.rows(keys(3, 1, 2)) >= 0, np.arange(3) < 3 - lost)
    store.append(keys(7), rows_of(7), np.array([1]))
    again = FeatureStore(folder, (2,))
    assert len(again) == 4 - lost
    np.testing.assert_array_equal(again.read(again.rows(keys(7, 3))), [[7, 7.5], [3, 3.5]])


def test_values_without_keys_are_overwritten(folder):
    with open(folder / "values.bin", "ab") as file:
        file.write(b"\1" * 11)
    store = FeatureStore(folder, (2,))
    store.append(keys(8), rows_of(8), np.array([1]))
    again = FeatureStore(folder, (2,))
    np.testing.assert_array_equal(again.read(again.rows(keys(8, 2))), [[8, 8.5], [2, 2.5]])


_WRITER = """
import sys, numpy as np
from pathlib import Path
from tfrec.features.store import FeatureStore, content_key
store = FeatureStore(Path(sys.argv[1]), (64,), np.float32)
for start in range(0, 10**9, 50):
    numbers = range(start, start + 50)
    values = np.repeat(np.array(numbers, np.float32)[:, None], 64, axis=1)
    store.append([content_key(str(n).encode()) for n in numbers], values, np.array(numbers))
    print(flush=True)
"""


@pytest.mark.parametrize("trial", range(3))
def test_killed_while_writing(tmp_path, trial):
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    for _ in range(5):
        writer.stdout.readline()
    time.sleep(0.01 * trial)
    writer.kill()
    acknowledged = 50 * (5 + len(writer.stdout.readlines()))
    writer.wait()
    store = FeatureStore(tmp_path, (64,), np.float32)
    assert len(store) >= acknowledged
    found = store.rows(keys(*range(len(store))))
    np.testing.assert_array_equal(store.read(found)[:, 63], np.arange(len(store)))
    np.testing.assert_array_equal(store.lengths(found), np.arange(len(store)))


def test_a_full_disk_costs_what_was_not_stored_and_says_so(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    one_row_and_a_half = (folder / "values.bin").stat().st_size + 6
    resource.setrlimit(resource.RLIMIT_FSIZE, (one_row_and_a_half, limits[1]))
    try:
        with pytest.raises(TfrecError, match=r"cannot be written: .*table: File too large\. Mend"):
            FeatureStore(folder, (2,)).append(keys(5, 6), rows_of(5, 6), np.array([1, 1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store = FeatureStore(folder, (2,))
    store.append(keys(6), rows_of(6), np.array([1]))
    np.testing.assert_array_equal(store.read(store.rows(keys(3, 5, 6))), [[3, 3.5], [0, 0], [6, 6.5]])


def test_writers_at_once_lose_nothing(tmp_path):
    """Two that opened the table when it was empty write the same keys, in their own order, and some of their own."""
    first, second = (FeatureStore(tmp_path, (2,)) for _ in range(2))
    for store, numbers in ((first, (1, 2)), (second, (2, 3)), (first, (4, 3)), (second, (1, 5))):
        store.append(keys(*numbers), rows_of(*numbers), np.array(numbers))
    for store in (second, FeatureStore(tmp_path, (2,))):
        assert len(store) == 5
        found = store.rows(keys(1, 2, 3, 4, 5))
        np.testing.assert_array_equal(store.read(found), rows_of(1, 2, 3, 4, 5))
        np.testing.assert_array_equal(store.lengths(found), [1, 2, 3, 4, 5])


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE) for _ in "ab"]
    for writer in writers * 40:
        writer.stdout.readline()
    for writer in writers:
        writer.kill()
        writer.wait()
    store = FeatureStore(tmp_path, (64,), np.float32)
    found = store.rows(keys(*range(2_000)))
    np.testing.assert_array_equal(store.read(found)[:, 63], np.arange(2_000))
    assert len(np.unique(found)) == 2_000


def test_a_million_rows(tmp_path):
    count = 1_000_000
    random = np.random.default_rng(0).integers(0, 256, (count, 32), np.uint8)
    names = np.frombuffer(random.tobytes(), "S32")
    FeatureStore(tmp_path, (2,)).append(names, np.zeros((count, 2), np.float16), np.ones(count, np.int32))
    start = time.monotonic()
    store = FeatureStore(tmp_path, (2,))
    np.testing.assert_array_equal(store.rows(names[::-1][:1000]), np.arange(count)[::-1][:1000])
    assert time.monotonic() - start < 20
