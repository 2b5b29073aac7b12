"""At which times frames are taken, by hand; and that those frames come out of real videos."""

import numpy as np
import pytest

from tfrec.config import ImageConfig
from tfrec.media import scenes
from tfrec.media.container import Deadline, MediaError, open_container
from tfrec.media.frames import read_frames
from tfrec.media.sampling import Sampling

COLOURS = [(220, 30, 30), (30, 200, 30), (40, 40, 220), (230, 230, 230), (20, 20, 20)]


def times(sampling: Sampling, length: float, cuts: list[float], start: float = 0.0) -> list[float]:
    return pytest.approx(sampling.times(start, length, lambda: cuts))


def scene_pictures(*lengths: int) -> list[np.ndarray]:
    """Scenes of plain colours, each as many pictures long; a white bar of growing height tells the pictures apart."""
    pictures = []
    for colour, length in zip(COLOURS, lengths, strict=False):
        for number in range(length):
            picture = np.full((40, 40, 3), colour, np.uint8)
            picture[: number + 1, :8] = 255 - np.array(colour)
            pictures.append(picture)
    return pictures


def scenes_and_numbers(frames: np.ndarray) -> list[tuple[int, int]]:
    """Which scene a frame of 40 pixels is of, and its number in it, read off the bar."""
    found = []
    for frame in frames.astype(int):
        scene = int(np.abs(np.array(COLOURS) - frame[30:, 20:].mean((0, 1))).sum(1).argmin())
        background = np.abs(frame[:, 3] - np.array(COLOURS[scene])).sum(1)
        inverse = np.abs(frame[:, 3] - (255 - np.array(COLOURS[scene]))).sum(1)
        found.append((scene, int((inverse < background).sum()) - 1))
    return found


def test_uniform_is_the_middle_of_equal_parts():
    assert times(Sampling(4), 4, [2.0], start=1) == [1.5, 2.5, 3.5, 4.5]


def test_fixed_rate_is_the_middle_of_each_period_and_an_even_choice_of_too_many():
    assert times(Sampling(8, "fixed_rate", 2.0), 1.5, []) == [0.25, 0.75, 1.25]
    assert times(Sampling(8, "fixed_rate", 1.0), 0.4, []) == [0.2]
    # 0.5, 1.5, ... 9.5: of ten, numbers 1, 5 and 8
    assert times(Sampling(3, "fixed_rate", 1.0), 10, []) == [1.5, 5.5, 8.5]


def test_each_scene_has_its_middle_and_long_scenes_more():
    sampling = Sampling(3, "key_frames")
    assert times(sampling, 10, [2.0, 4.0]) == [1, 3, 7]
    # the two frames left over: 6 s are the longest, then their halves, longer than the scenes of 2 s
    assert times(Sampling(5, "key_frames"), 10, [2.0, 4.0]) == [1, 3, 5, 7, 9]
    # five scenes, three frames: the longest three
    assert times(sampling, 20, [1.0, 5.0, 8.0, 9.0]) == [3, 6.5, 14.5]


def test_one_scene_is_sampled_uniformly():
    assert Sampling(4).times(1, 4, list) == times(Sampling(4, "key_frames"), 4, [], start=1)
    assert Sampling(4).times(1, 4, list) == times(Sampling(4, "key_frames"), 4, [0.5, 5.0, 9.0], start=1)


def test_versions_differ_where_frames_may():
    configs = [ImageConfig(), ImageConfig(sampling="fixed_rate"), ImageConfig(sampling="key_frames")]
    configs += [ImageConfig(num_frames=9), ImageConfig(sampling="fixed_rate", frames_per_second=0.5)]
    versions = [Sampling.of(config).version for config in configs]
    assert versions[0] == "8"
    assert len(set(versions)) == 5
    assert Sampling.of(ImageConfig(frames_per_second=3)).version == "8"


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")])
def test_each_mode_takes_the_frames_expected(tmp_path, write_media, suffix, codec):
    # 10 pictures per second; scenes of 1.2, 0.8 and 3.2 s
    path = write_media(tmp_path / f"a.{suffix}", scene_pictures(12, 8, 32), codec)
    key_frames = scenes_and_numbers(read_frames(path, Sampling(3, "key_frames"), 40))
    # middles at 0.6, 1.6 and 3.6 s
    assert key_frames == pytest.approx(np.array([(0, 6), (1, 4), (2, 16)]), abs=1)
    assert [scene for scene, _ in key_frames] == [0, 1, 2]
    more = scenes_and_numbers(read_frames(path, Sampling(5, "key_frames"), 40))
    assert [scene for scene, _ in more] == [0, 1, 2, 2, 2]
    fixed = scenes_and_numbers(read_frames(path, Sampling(8, "fixed_rate", 1.0), 40))
    # at 0.5, 1.5, 2.5, 3.5 and 4.5 s
    assert [scene for scene, _ in fixed] == [0, 1, 2, 2, 2]
    assert fixed[0][1] == pytest.approx(5, abs=1)
    uniform = scenes_and_numbers(read_frames(path, Sampling(3), 40))
    # at 0.87, 2.6 and 4.33 s
    assert uniform == pytest.approx(np.array([(0, 8), (2, 6), (2, 23)]), abs=1)


def test_without_cuts_key_frames_are_the_uniform_ones(tmp_path, write_media):
    path = write_media(tmp_path / "a.mp4", scene_pictures(30))
    expected = read_frames(path, Sampling(4), 40)
    np.testing.assert_array_equal(read_frames(path, Sampling(4, "key_frames"), 40), expected)


def cuts_of(path) -> list[float]:
    with open_container(path) as container:
        stream = container.streams.video[0]
        return scenes.find_cuts(container, stream, float(stream.duration * stream.time_base), Deadline(path, 20))


def test_long_videos_are_judged_by_the_codecs_key_frames(tmp_path, write_media, monkeypatch):
    # This encoder makes every twelfth picture a key frame.
    path = write_media(tmp_path / "a.mp4", scene_pictures(36, 24, 20), "mpeg4")
    assert cuts_of(path) == pytest.approx([3.6, 6.0])
    looked_at = []
    small = scenes._small
    monkeypatch.setattr(scenes, "MAX_FRAMES", 20)
    monkeypatch.setattr(scenes, "_small", lambda frame: looked_at.append(frame.time) or small(frame))
    assert cuts_of(path) == pytest.approx([3.6, 6.0])
    assert len(looked_at) == 7


def test_looking_for_scenes_has_a_time_limit(tmp_path, write_media):
    path = write_media(tmp_path / "a.mp4", scene_pictures(5))
    with pytest.raises(MediaError, match="not decoded within 0 seconds") as error:
        read_frames(path, Sampling(2, "key_frames"), 16, timeout_seconds=0)
    assert not error.value.lasting


def test_pictures_of_a_folder_are_an_even_choice_in_any_mode(tmp_path):
    import cv2

    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), 10 * number, np.uint8))
    for mode in ("fixed_rate", "key_frames"):
        assert read_frames(tmp_path, Sampling(3, mode), 8)[:, 0, 0, 0].tolist() == [10, 30, 50]
