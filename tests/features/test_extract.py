"""Content features end to end: what comes out, what is cached, what is refused."""

import shutil

import numpy as np
import pytest

from tfrec.config import AudioConfig, DataConfig, FeaturesConfig, ImageConfig, TextConfig
from tfrec.data.dataset import load_dataset
from tfrec.data.rejects import MEDIA, RejectLog
from tfrec.features.extract import extract_features, given_modality
from tfrec.features.media import _Encoding

CONFIG = FeaturesConfig(image=ImageConfig(image_size=32, num_frames=4), audio=AudioConfig(num_steps=8), workers=1)
TEXTS = np.array(["a cat", "a dog", "", "一只猫", "a cat", ""], object)


def test_media_come_out_aligned_with_the_catalogue(catalog, media, tmp_path):
    rejects = RejectLog()
    content = extract_features(catalog(media=media), CONFIG, tmp_path / "cache", rejects)
    video, audio = content.modalities["video"], content.modalities["audio"]
    assert video.values.shape == (6, 4, 128)
    assert audio.values.shape == (6, 8, 40)
    np.testing.assert_array_equal(video.lengths, [4, 4, 0, 2, 0, 0])
    np.testing.assert_array_equal(audio.lengths, [8, 0, 0, 8, 0, 0])
    for modality in (video, audio):
        present = np.arange(modality.values.shape[1]) < modality.lengths[:, None]
        assert not modality.values[~present].any()
        assert modality.values[present].any(axis=-1).all()
    assert set(content.encoders) == {"video", "audio"}
    (reason,) = rejects.counts()[MEDIA]
    assert reason.startswith("not a media file: it starts with b'no video'")


def test_a_second_run_encodes_nothing(catalog, media, tmp_path):
    del media[4]
    videos = catalog(media=media, texts=TEXTS)
    first = extract_features(videos, CONFIG, tmp_path / "cache")
    assert first.encoded == {"text": 3, "video": 3, "audio": 3}
    totals = []
    second = extract_features(videos, CONFIG, tmp_path / "cache", progress=lambda done, total: totals.append(total))
    assert second.encoded == {"text": 0, "video": 0, "audio": 0}
    assert set(totals) == {0}
    assert second.encoders == first.encoders
    for name, modality in first.modalities.items():
        np.testing.assert_array_equal(second.modalities[name].values, modality.values)
        np.testing.assert_array_equal(second.modalities[name].lengths, modality.lengths)


def test_only_what_is_new_is_encoded_wherever_it_lies(catalog, media, tmp_path):
    first = extract_features(catalog(media={0: media[0]}), CONFIG, tmp_path / "cache")
    moved = media[0].video.rename(tmp_path / "moved.mp4")
    copied = shutil.copy(moved, tmp_path / "copy.mp4")
    sources = {5: type(media[0])(video=moved), 2: type(media[0])(video=copied), 3: media[3]}
    second = extract_features(catalog(media=sources), CONFIG, tmp_path / "cache")
    assert second.encoded["video"] == 1
    for row in (5, 2):
        np.testing.assert_array_equal(second.modalities["video"].values[row], first.modalities["video"].values[0])


def test_a_changed_file_or_setting_is_encoded_anew(catalog, media, tmp_path, write_media):
    videos = catalog(media={0: media[0]})
    extract_features(videos, CONFIG, tmp_path / "cache")
    write_media(media[0].video, [np.full((32, 32, 3), 50, np.uint8)] * 5)
    assert extract_features(videos, CONFIG, tmp_path / "cache").encoded["video"] == 1
    fewer = FeaturesConfig(image=ImageConfig(image_size=32, num_frames=2), workers=1)
    assert extract_features(videos, fewer, tmp_path / "cache").modalities["video"].values.shape == (6, 2, 128)


def test_an_interrupted_run_continues(catalog, media, tmp_path, monkeypatch):
    monkeypatch.setattr("tfrec.features.media._VIDEOS_PER_WRITE", 1)
    del media[4]
    videos = catalog(media=media)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(videos, CONFIG, tmp_path / "cache", progress=stop)
    continued = extract_features(videos, CONFIG, tmp_path / "cache")
    assert continued.encoded["video"] == 1
    np.testing.assert_array_equal(continued.modalities["video"].lengths, [4, 4, 0, 2, 0, 0])


def test_one_modality_stored_and_the_other_not(catalog, media, tmp_path, monkeypatch):
    monkeypatch.setattr("tfrec.features.media._VIDEOS_PER_WRITE", 1)
    videos = catalog(media={0: media[0]})

    def half(self, keys, encoded):
        keep(self, keys, encoded)
        shutil.rmtree(self._stores["audio"].folder)
        raise KeyboardInterrupt

    keep = _Encoding._keep
    monkeypatch.setattr(_Encoding, "_keep", half)
    with pytest.raises(KeyboardInterrupt):
        extract_features(videos, CONFIG, tmp_path / "cache")
    monkeypatch.setattr(_Encoding, "_keep", keep)
    content = extract_features(videos, CONFIG, tmp_path / "cache")
    assert content.modalities["video"].lengths[0] == 4
    assert content.modalities["audio"].lengths[0] == 8
    assert len(list((tmp_path / "cache").glob("cnn-*"))) == 1


def test_sound_alone(catalog, media, tmp_path):
    source = type(media[3])(audio=media[3].audio)
    content = extract_features(catalog(media={2: source}), CONFIG, tmp_path / "cache")
    assert set(content.modalities) == {"audio"}
    np.testing.assert_array_equal(content.modalities["audio"].lengths, [0, 0, 8, 0, 0, 0])


def test_nothing_readable_is_refused_and_nothing_is_built(catalog, media, tmp_path):
    rejects = RejectLog()
    gone = type(media[4])(video=tmp_path / "videos" / "gone.mp4")
    content = extract_features(catalog(media={1: gone, 4: media[4]}), CONFIG, tmp_path / "cache", rejects)
    assert not content
    assert sorted(rejects.counts()[MEDIA]) == [
        "cannot be read (No such file or directory)",
        "not a media file: it starts with b'no video' (Invalid data found when processing input)",
    ]
    assert not (tmp_path / "cache" / "modules").exists()


def test_equal_texts_get_equal_vectors_and_empty_ones_none(catalog, tmp_path):
    content = extract_features(catalog(texts=TEXTS), CONFIG, tmp_path / "cache")
    text = content.modalities["text"]
    np.testing.assert_array_equal(text.lengths, [1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(text.values[0], text.values[4])
    assert not text.values[[2, 5]].any()
    assert content.encoded == {"text": 3}


def test_ids_alone_give_no_modality(catalog, tmp_path):
    assert not extract_features(catalog(), CONFIG, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_generation_metadata_with_prompts(catalog, methods, tmp_path):
    params = np.array([[1, 5], [3, 5], [np.nan, 0], [2, 5], [np.nan] * 2, [np.nan] * 2], np.float32)
    prompts = np.array(["a cat", "", "", "", "a dog", ""], object)
    videos = catalog(generate_method=methods, gen_params=params, prompts=prompts)
    content = extract_features(videos, CONFIG, tmp_path / "cache")
    generation = content.modalities["generation"]
    np.testing.assert_array_equal(generation.lengths, [1, 1, 0, 1, 1, 0])
    # one-hot method (unknown first), standardised parameters (the second is constant), whether they are present
    third = np.sqrt(1.5)
    expected = [
        [0, 1, 0, -third, 0, 1],
        [0, 0, 1, third, 0, 1],
        [0] * 6,
        [1, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 0],
        [0] * 6,
    ]
    np.testing.assert_allclose(generation.values[:, :6], expected, atol=1e-6)
    assert generation.dim == 6 + 128
    assert generation.values[[0, 4], 6:].any(axis=1).all()
    assert not generation.values[[1, 2, 3, 5], 6:].any()
    assert "text" not in content.modalities


def test_given_embeddings(catalog, tmp_path):
    table = np.arange(12, dtype=np.float64).reshape(6, 2)
    table[2, 1], table[3] = np.nan, 0
    np.save(tmp_path / "visual.npy", np.ones((6, 3), np.float16))
    mapped = np.load(tmp_path / "visual.npy", mmap_mode="r")
    content = extract_features(catalog(content={"mine": table, "visual": mapped}), CONFIG, tmp_path / "cache")
    mine = content.modalities["mine"]
    assert mine.values.dtype == np.float32
    np.testing.assert_array_equal(mine.values, [[0, 1], [2, 3], [0, 0], [0, 0], [8, 9], [10, 11]])
    np.testing.assert_array_equal(mine.lengths, [1, 1, 0, 0, 1, 1])
    assert content.modalities["visual"].values is mapped
    assert content.encoders["mine"] != given_modality(table + 1)[1]


def test_real_clips_with_pretrained_modules(shared, tmp_path):
    videos = load_dataset(DataConfig(folder=shared / "data" / "clips")).videos
    rows = list(videos.media)[::30]
    subset = type(videos)(**{**vars(videos), "media": {row: videos.media[row] for row in rows}})
    hub = shared / "hub"
    config = FeaturesConfig(
        text=TextConfig(
            str(hub / "minilm_en_uncased_preprocess_core_ops"), str(hub / "minilm_en_uncased_L-6_H-384_A-12")
        ),
        image=ImageConfig(str(hub / "squeezenet_v11_feature_vector"), num_frames=4),
    )
    content = extract_features(subset, config, tmp_path)
    assert content.modalities["text"].values.shape == (150, 384)
    assert content.modalities["video"].values.shape == (150, 4, 512)
    np.testing.assert_array_equal(np.flatnonzero(content.modalities["video"].lengths), rows)
    with_sound = content.modalities["audio"].lengths > 0
    assert 0 < with_sound.sum() < len(rows)
    assert extract_features(subset, config, tmp_path).encoded == {"text": 0, "video": 0, "audio": 0}
