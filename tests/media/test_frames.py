"""Frames of real files, written here: which are taken, what they look like, and why there are none."""

import os
import struct
import time

import av
import cv2
import numpy as np
import pytest

from tfrec.data.schema import MediaSource
from tfrec.media.container import MediaError, decode, open_container
from tfrec.media.frames import read_frames, to_square
from tfrec.media.read import DecodeSettings, read_media
from tfrec.media.sampling import Sampling


def plain(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def counting(count: int, step: int = 5) -> list[np.ndarray]:
    """Pictures whose grey level is `step` times their number."""
    return [plain(step * number) for number in range(count)]


def levels(frames: np.ndarray) -> np.ndarray:
    return frames.mean(axis=(1, 2, 3))


CONTAINERS = [("mp4", "libx264"), ("mov", "libx264"), ("mkv", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")]


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_frames_on_screen_at_the_middle_of_equal_parts(tmp_path, write_media, suffix, codec):
    path = write_media(tmp_path / f"a.{suffix}", counting(40), codec)
    frames = read_frames(path, 4, image_size=32)
    assert frames.shape == (4, 32, 32, 3)
    assert frames.dtype == np.uint8
    # 4 s, sampled at 0.5, 1.5, 2.5 and 3.5 s: pictures 5, 15, 25 and 35
    np.testing.assert_allclose(levels(frames), [25, 75, 125, 175], atol=5)


def test_gif_and_wrong_extension(tmp_path, write_media):
    gif = write_media(tmp_path / "a.gif", counting(20, 12), "gif", "rgb8")
    np.testing.assert_allclose(levels(read_frames(gif, 2, 16)), [60, 180], atol=20)
    disguised = gif.rename(tmp_path / "a.mp4")
    assert len(read_frames(disguised, 2, 16)) == 2


def test_variable_frame_rate_samples_time_not_frame_numbers(tmp_path, write_media):
    # Nine pictures within the first second, the tenth stays on screen up to second 9.
    times = [*range(9), 10, 90]
    path = write_media(tmp_path / "a.mkv", [*counting(9), plain(200), plain(200)], "libx264", times=times)
    np.testing.assert_allclose(levels(read_frames(path, 3, 16)), [200], atol=5)


def test_fewer_pictures_than_asked_come_once_each(tmp_path, write_media):
    assert len(read_frames(write_media(tmp_path / "one.mp4", counting(1)), 8, 16)) == 1
    assert len(read_frames(write_media(tmp_path / "three.mp4", counting(3)), 8, 16)) == 3


def test_a_long_video_is_sought_through(tmp_path, write_media, monkeypatch):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(600)]
    path = write_media(tmp_path / "a.mp4", pictures)
    with open_container(path) as container:
        on_screen = sorted(container.decode(video=0), key=lambda frame: frame.pts)[300]
        expected = to_square(on_screen.to_ndarray(format="rgb24"), 32)
    decoded = []

    def counted(packets, deadline):
        for frame in decode(packets, deadline):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr("tfrec.media.frames.decode", counted)
    np.testing.assert_array_equal(read_frames(path, 1, 32)[0], expected)
    assert len(decoded) < 100


def test_rotation_is_applied(tmp_path, write_media):
    picture = plain(0, 32, 32)
    picture[:16, :16] = 255  # white top left corner
    upright = read_frames(write_media(tmp_path / "a.mp4", [picture] * 3), 1, 32)[0]
    assert upright[4, 4, 0] > 200
    turned = read_frames(write_media(tmp_path / "b.mp4", [picture] * 3, rotation=90), 1, 32)[0]
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 90
    # FFmpeg's display rotation counts anticlockwise: the corner moves from top left to bottom left.
    assert turned[28, 4, 0] > 200
    assert turned[4, 4, 0] < 50


def test_transparency_lies_over_black_and_grey_becomes_rgb(tmp_path, write_media):
    half = np.full((16, 16, 4), (255, 100, 0, 128), np.uint8)
    alpha = read_frames(write_media(tmp_path / "a.mkv", [half], "ffv1", "bgra"), 1, 8)[0]
    np.testing.assert_allclose(alpha[0, 0], [128, 50, 0], atol=2)
    grey = read_frames(write_media(tmp_path / "g.mkv", [plain(90)], "ffv1", "gray"), 1, 8)[0]
    np.testing.assert_allclose(grey[0, 0], [90, 90, 90], atol=1)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (3, 200)])
def test_odd_sizes(tmp_path, write_media, size):
    path = write_media(tmp_path / "a.mkv", [plain(120, *size)], "ffv1", "bgr0")
    np.testing.assert_array_equal(read_frames(path, 2, 24), np.full((1, 24, 24, 3), 120))


def test_a_matroska_file_whose_time_begins_late(tmp_path, write_media):
    """Its stated duration is its end: 20 pictures from second 100 on, sampled at 100.5 and 101.5."""
    path = write_media(tmp_path / "a.mkv", counting(20, 10), "libx264", times=range(1000, 1020))
    np.testing.assert_allclose(levels(read_frames(path, 2, 16)), [50, 150], atol=5)


@pytest.mark.parametrize(("suffix", "codec"), [("ts", "libx264"), ("flv", "flv1")])
def test_back_to_the_first_picture_after_sound_or_scenes_were_read(tmp_path, write_media, suffix, codec):
    path = write_media(tmp_path / f"a.{suffix}", counting(40), codec, tone=np.zeros(4 * 44_100))
    for mode in ("uniform", "key_frames"):
        frames, sound = read_media(MediaSource(video=path), DecodeSettings(Sampling(4, mode), 32, 16_000, 30, 60))
        np.testing.assert_allclose(levels(frames), [25, 75, 125, 175], atol=7)
        assert len(sound) > 60_000


@pytest.mark.parametrize(("rotation", "bright"), [(0, (0.5, 1)), (90, (1, 0.5))])
def test_the_pixel_aspect_turns_with_the_picture(tmp_path, write_media, rotation, bright):
    """64 x 32 pixels twice as wide as high are a square; the bright half is as wide as it is."""
    picture = plain(0, 64, 32)
    picture[16:48] = 255
    path = write_media(tmp_path / "a.mp4", [picture] * 3, rotation=rotation, pixel_aspect=2)
    frame = read_frames(path, 1, 32)[0, ..., 0] > 127
    assert (frame[:, 16].mean(), frame[16].mean()) == bright


def test_to_square_takes_the_centre_and_obeys_the_pixel_aspect():
    picture = np.zeros((2, 6, 3), np.uint8)
    picture[:, 2:4] = 200
    np.testing.assert_array_equal(to_square(picture, 2), np.full((2, 2, 3), 200))
    # Pixels half as wide as high: the visible square is 2 high and 4 wide.
    np.testing.assert_array_equal(to_square(picture, 4, pixel_aspect=0.5)[0, :, 0], [0, 200, 200, 0])


def test_shrinking_averages():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    shrunk = to_square(np.repeat(checks[..., None], 3, 2).astype(np.uint8), 16)
    np.testing.assert_allclose(shrunk, 127.5, atol=1)


def test_folder_of_pictures_in_the_order_of_their_names(tmp_path):
    for number in range(10):
        path = tmp_path / f"{number:02d} 画面\n.png"
        path.write_bytes(cv2.imencode(".png", plain(20 * number))[1].tobytes())
    np.testing.assert_array_equal(levels(read_frames(tmp_path, 2, 16)), [40, 140])
    assert len(read_frames(tmp_path, 50, 16)) == 10


def test_folder_pictures_with_alpha_and_16_bits(tmp_path):
    half = np.full((8, 8, 4), (0, 100, 255, 128), np.uint8)  # BGRA
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", half)[1].tobytes())
    (tmp_path / "b.png").write_bytes(cv2.imencode(".png", np.full((8, 8), 50_000, np.uint16))[1].tobytes())
    frames = read_frames(tmp_path, 2, 4)
    np.testing.assert_allclose(frames[0, 0, 0], [128, 50, 0], atol=1)
    np.testing.assert_allclose(frames[1, 0, 0], 50_000 / 257, atol=1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (bytes(5000), "not a media file: it starts with zero bytes"),
        (b"just some words\n" * 50, "not a media file: it starts with b'just"),
        (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", "not a media file"),
        (b"ffconcat version 1.0\nfile good.mp4\n", "not a media file"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, write_media, content, reason):
    write_media(tmp_path / "good.mp4", counting(5))
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError) as error:
        read_frames(tmp_path / "a.mp4", 2, 16)
    assert reason in error.value.reason


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_truncated_mp4_is_refused(tmp_path, write_media, options, share):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(30)]
    whole = write_media(tmp_path / "whole.mp4", pictures, options=options).read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MediaError, match="truncated"):
        read_frames(tmp_path / "a.mp4", 4, 16)


@pytest.mark.parametrize(("suffix", "codec", "form"), [("mkv", "libx264", "yuv420p"), ("gif", "gif", "rgb8")])
def test_truncated_files_of_other_formats_are_refused(tmp_path, write_media, suffix, codec, form):
    whole = write_media(tmp_path / f"whole.{suffix}", counting(50), codec, form).read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="truncated"):
        read_frames(tmp_path / f"a.{suffix}", 4, 16)


def test_other_true_reasons(tmp_path, write_media):
    sound = write_media(tmp_path / "sound.mp4", [], tone=np.zeros(44_100))
    with pytest.raises(MediaError, match="no video stream"):
        read_frames(sound, 2, 16)
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "01" * 16}
    with pytest.raises(MediaError, match="encrypted"):
        read_frames(write_media(tmp_path / "e.mp4", counting(5), options=key), 2, 16)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(MediaError, match="symbolic links"):
        read_frames(tmp_path / "loop", 2, 16)
    with pytest.raises(MediaError, match="No such file"):
        read_frames(tmp_path / "absent.mp4", 2, 16)
    (tmp_path / "folder").mkdir()
    with pytest.raises(MediaError, match="no pictures"):
        read_frames(tmp_path / "folder", 2, 16)


def test_an_impossible_size_in_the_header_is_refused(tmp_path, write_media):
    path = write_media(tmp_path / "a.gif", counting(3), "gif", "rgb8")
    path.write_bytes(path.read_bytes()[:6] + b"\xff\xff\xff\xff" + path.read_bytes()[10:])
    with pytest.raises(MediaError, match="of an impossible size"):
        read_frames(path, 2, 16)


def test_too_many_pixels_are_refused(tmp_path, write_media, monkeypatch):
    path = write_media(tmp_path / "a.mp4", counting(3))
    monkeypatch.setattr("tfrec.media.frames.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(MediaError, match="too large: 64 x 48 pixels"):
        read_frames(path, 2, 16)


def test_time_limit(tmp_path, write_media):
    path = write_media(tmp_path / "a.gif", counting(50), "gif", "rgb8")
    with pytest.raises(MediaError, match="not decoded within 0 seconds"):
        read_frames(path, 2, 16, timeout_seconds=0)


def test_strange_names_and_no_leaked_file_handles(tmp_path, write_media):
    path = write_media(tmp_path / "a.mp4", counting(5)).rename(tmp_path / "a b\n视频: é.mp4")
    read_frames(path, 2, 16)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_frames(path, 2, 16)
    assert len(os.listdir("/proc/self/fd")) == before


def test_damaged_bytes_never_crash(tmp_path, write_media):
    whole = write_media(tmp_path / "whole.mp4", counting(40), tone=np.zeros(44_100)).read_bytes()
    random = np.random.default_rng(0)
    start, outcomes = time.monotonic(), set()
    for trial in range(40):
        damaged = bytearray(whole)
        for place in random.integers(len(damaged), size=30):
            damaged[place] = random.integers(256)
        (tmp_path / f"{trial}.mp4").write_bytes(damaged)
        try:
            outcomes.add(read_frames(tmp_path / f"{trial}.mp4", 4, 16, timeout_seconds=5).dtype)
        except MediaError:
            outcomes.add("refused")
    assert outcomes == {np.dtype(np.uint8), "refused"}
    assert time.monotonic() - start < 60


EXIF_CORNERS = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
"""Where the top left corner of the stored picture is on screen: row, column (Exif 2.3, tag 274)."""


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The picture with an Exif segment of one entry."""
    entry = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    body = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize(("orientation", "corner"), EXIF_CORNERS.items())
def test_orientation_of_photographs_is_applied(tmp_path, orientation, corner):
    picture = plain(0, 32, 48)
    picture[:16, :24] = 255
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    (tmp_path / "a.jpg").write_bytes(with_orientation(jpeg, orientation))
    frame = read_frames(tmp_path, 1, 32)[0, ..., 0]
    quarters = frame.reshape(2, 16, 2, 16)[:, 4:12, :, 4:12].mean(axis=(1, 3))
    expected = np.zeros((2, 2))
    expected[corner] = 255
    np.testing.assert_allclose(quarters, expected, atol=3)


def test_numbered_pictures_come_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 10, 9, 100):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), plain(2 * number))
    np.testing.assert_array_equal(levels(read_frames(tmp_path, 5, 16)), [2, 4, 18, 20, 200])


@pytest.mark.parametrize(("degrees", "corner"), [(90, (1, 0)), (180, (1, 1)), (270, (0, 1))])
def test_every_rotation_of_a_wide_video(tmp_path, write_media, degrees, corner):
    picture = plain(0, 32, 48)
    picture[:16, :24] = 255
    frame = read_frames(write_media(tmp_path / "a.mp4", [picture] * 3, rotation=degrees), 1, 32)[0, ..., 0]
    expected = np.zeros((2, 2))
    expected[corner] = 255
    quarters = frame.reshape(2, 16, 2, 16)[:, 4:12, :, 4:12].mean(axis=(1, 3))
    np.testing.assert_allclose(quarters, expected, atol=8)
