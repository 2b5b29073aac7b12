"""Sound tracks as mono waveforms."""

import numpy as np
import pytest

from tfrec.data.schema import MediaSource
from tfrec.media.audio import read_audio
from tfrec.media.container import MediaError, open_container
from tfrec.media.read import DecodeSettings, read_media
from tfrec.media.sampling import Sampling


def tone(seconds: float, rate_hz: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz)


def loudest_hertz(waveform: np.ndarray, rate_hz: int) -> float:
    return float(np.abs(np.fft.rfft(waveform)).argmax() * rate_hz / len(waveform))


@pytest.mark.parametrize(
    ("suffix", "codec", "layout", "rate_hz"),
    [
        ("wav", "pcm_s16le", "mono", 8_000),
        ("wav", "pcm_s16le", "stereo", 44_100),
        ("mov", "pcm_s16le", "7.1", 48_000),
        ("mp4", "aac", "stereo", 44_100),
        ("mkv", "aac", "mono", 22_050),
    ],
)
def test_any_codec_rate_and_channel_count(tmp_path, write_media, suffix, codec, layout, rate_hz):
    path = tmp_path / f"a.{suffix}"
    write_media(path, [], tone=tone(1, rate_hz), tone_rate_hz=rate_hz, layout=layout, audio_codec=codec)
    waveform = read_audio([path], 16_000, 30)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert len(waveform) == pytest.approx(16_000, abs=2_300)  # AAC adds up to two frames of silence
    assert loudest_hertz(waveform, 16_000) == pytest.approx(440, abs=3)
    middle = waveform[4_000:12_000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_a_declared_track_without_a_packet_is_no_sound(tmp_path, write_media):
    pictures = [np.full((32, 32, 3), 90, np.uint8)] * 3
    path = write_media(tmp_path / "a.mkv", pictures, tone=np.zeros(0))
    with open_container(path) as container:
        assert container.streams.audio
    frames, sound = read_media(MediaSource(video=path), DecodeSettings(Sampling(1), 8, 16_000, 30, 60))
    np.testing.assert_allclose(frames, 90, atol=3)
    assert not len(sound)


def test_pcm_at_the_wanted_rate_is_left_as_it_is(tmp_path, write_media):
    samples = tone(0.5, 16_000)
    path = write_media(
        tmp_path / "a.wav", [], tone=samples, tone_rate_hz=16_000, layout="mono", audio_codec="pcm_s16le"
    )
    np.testing.assert_allclose(read_audio([path], 16_000, 30), samples, atol=1e-4)


def test_files_follow_each_other_up_to_the_limit(tmp_path, write_media):
    paths = [
        write_media(
            tmp_path / f"{number}.wav",
            [],
            tone=np.full(16_000, level),
            tone_rate_hz=16_000,
            layout="mono",
            audio_codec="pcm_s16le",
        )
        for number, level in enumerate([0.25, 0.5])
    ]
    waveform = read_audio(paths, 16_000, max_seconds=1.5)
    assert len(waveform) == 24_000
    np.testing.assert_allclose(waveform[[100, 15_000, 17_000, 23_900]], [0.25, 0.25, 0.5, 0.5], atol=1e-3)


def test_no_sound_track_is_empty_and_silence_is_zeros(tmp_path, write_media):
    picture = np.zeros((16, 16, 3), np.uint8)
    assert read_audio([write_media(tmp_path / "a.mp4", [picture])], 16_000, 30).shape == (0,)
    silent = write_media(tmp_path / "b.mp4", [picture], tone=np.zeros(44_100))
    waveform = read_audio([silent], 16_000, 30)
    assert len(waveform) > 15_000
    np.testing.assert_allclose(waveform, 0, atol=1e-4)


def test_what_is_no_sound_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(MediaError, match="starts like an AVI or WAV file"):
        read_audio([tmp_path / "a.wav"], 16_000, 30)


@pytest.mark.parametrize(("suffix", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame")])
def test_tensorflow_io_hears_what_av_hears(tmp_path, write_media, suffix, codec):
    path = tmp_path / f"a.{suffix}"
    write_media(path, [], tone=tone(1, 44_100), tone_rate_hz=44_100, audio_codec=codec)
    by_av, by_tfio = (read_audio([path], 16_000, 30, decoder=name) for name in ("av", "tensorflow_io"))
    assert by_tfio.dtype == np.float32
    assert len(by_tfio) == pytest.approx(len(by_av), abs=50)
    assert loudest_hertz(by_tfio, 16_000) == pytest.approx(440, abs=3)
    levels = [np.sqrt(np.mean(waveform[4_000:12_000] ** 2)) for waveform in (by_av, by_tfio)]
    assert levels[1] == pytest.approx(levels[0], rel=0.02)


def test_tensorflow_io_reads_no_more_than_is_asked_for(tmp_path, write_media):
    path = write_media(tmp_path / "a.wav", [], tone=tone(2, 16_000), tone_rate_hz=16_000, audio_codec="pcm_s16le")
    assert len(read_audio([path], 16_000, 0.5, decoder="tensorflow_io")) == 8_000


def test_av_reads_what_tensorflow_io_cannot(tmp_path, write_media):
    samples = tone(1, 16_000)
    source = write_media(tmp_path / "a.mov", [], tone=samples, tone_rate_hz=16_000, audio_codec="pcm_s24le")
    path = source.rename(tmp_path / "a.ogg")  # no Ogg at all
    np.testing.assert_allclose(read_audio([path], 16_000, 30, decoder="tensorflow_io"), samples, atol=1e-3)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\xff\xff\xff\x7fWAVEfmt ", b"no sound" * 99])
def test_tensorflow_io_leaves_a_broken_file_to_a_reject_with_a_reason(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(MediaError):
        read_audio([path], 16_000, 30, decoder="tensorflow_io")
