"""Content keys: of the bytes, remembered by path, size and time."""

import os

import pytest

from tfrec.data.schema import MediaSource
from tfrec.features import content_hash
from tfrec.features.content_hash import content_keys


@pytest.fixture
def sources(tmp_path):
    for name, content in [("a", b"one"), ("b", b"two"), ("c", b"one")]:
        (tmp_path / f"{name}.mp4").write_bytes(content)
    return [MediaSource(video=tmp_path / f"{name}.mp4") for name in "abc"]


def test_equal_bytes_equal_keys(sources, tmp_path):
    first, second, third = content_keys(sources, tmp_path / "hashes")
    assert first == third != second
    assert content_keys([MediaSource(audio=(sources[0].video,))], tmp_path / "hashes") != [first]


def test_a_second_run_reads_no_file(sources, tmp_path, monkeypatch):
    keys = content_keys(sources, tmp_path / "hashes")
    monkeypatch.setattr(content_hash, "_content", lambda source: pytest.fail("was read again"))
    assert content_keys(sources, tmp_path / "hashes") == keys


def test_a_changed_file_is_noticed(sources, tmp_path):
    before = content_keys(sources, tmp_path / "hashes")
    sources[1].video.write_bytes(b"2wo")
    os.utime(sources[1].video, ns=(1, 1))
    after = content_keys(sources, tmp_path / "hashes")
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_pictures_count_with_their_order(tmp_path):
    def folder(name, first, second):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(first)
        (tmp_path / name / "2.png").write_bytes(second)
        (tmp_path / name / "notes.txt").write_text(name)
        return MediaSource(frames=tmp_path / name)

    keys = content_keys([folder("x", b"a", b"b"), folder("y", b"a", b"b"), folder("z", b"b", b"a")], tmp_path / "h")
    assert keys[0] == keys[1] != keys[2]


def test_unreadable_files_give_their_error(sources, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    bad = [MediaSource(video=tmp_path / "gone"), sources[0], MediaSource(video=tmp_path / "loop")]
    gone, good, loop = content_keys(bad, tmp_path / "hashes")
    assert isinstance(gone, FileNotFoundError)
    assert isinstance(good, bytes)
    assert isinstance(loop, OSError)
