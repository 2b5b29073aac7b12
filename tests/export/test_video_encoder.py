"""The exported encoder against the offline pipeline, on real files written here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import librosa
import numpy as np
import pytest
import tensorflow as tf

from tfrec.config import (
    AudioConfig,
    CandidateConfig,
    ColdStartConfig,
    FeaturesConfig,
    ImageConfig,
    QueryConfig,
    RetrievalConfig,
)
from tfrec.data.input_pipeline import RetrievalBatches
from tfrec.data.schema import (
    Catalog,
    CategoricalColumn,
    Dataset,
    FeatureColumns,
    Interactions,
    MediaSource,
    NumericColumn,
)
from tfrec.export.media_input import decode_frames, decode_sound, pick_frames, resample
from tfrec.export.ops import assert_stock
from tfrec.export.video_encoder import Encoders, VideoEncoder
from tfrec.features.content import ContentFeatures
from tfrec.features.extract import extract_features
from tfrec.media.audio import read_audio
from tfrec.media.frames import read_frames, to_square
from tfrec.models.cold_start import LEAST_LOG_VARIANCE, ColdStartModel
from tfrec.models.cold_videos import ColdVideos
from tfrec.models.content_block import ContentBlock
from tfrec.models.retrieval import RetrievalModel

NUM_VIDEOS, SIZE, NUM_FRAMES, RATE_HZ, DIM, CONTENT_DIM = 6, 32, 4, 16_000, 8, 5
APPEAL, NOW = 1.5, 1000
CONFIG = FeaturesConfig(
    image=ImageConfig(image_size=SIZE, num_frames=NUM_FRAMES, batch_size=3), audio=AudioConfig(num_steps=8), workers=1
)
PROMPTS = ("", "", "", "a red dog", "a cat", "")
TAGS = ("funny", "funny|new", '["new", "funny"]', "", "new|unheard of", "")
TITLES = ("a cat on a mat.", "a dog", "two dogs", "", "a cat", "a mat")
TEXTS = (
    "a cat on a mat. funny",
    "a dog. funny, new",
    "two dogs. new, funny",
    "a red dog",
    "a cat. new, unheard of. a cat",
    "a mat",
)


class Platform(NamedTuple):
    """A catalogue of six videos with files, its features and its models.

    Args:
        catalog: row 3 has nothing but generation metadata (its text is the prompt), row 5 has none.
        cache: of the features.
        content: the features, and a table that the dataset brought itself.
        cold_videos: a head with random weights, and half of the score from content.
        encoder: that is exported.
    """

    catalog: Catalog
    cache: Path
    content: ContentFeatures
    cold_videos: ColdVideos
    encoder: VideoEncoder


def tone(video: int) -> np.ndarray:
    return (0.4 * np.sin(np.arange(RATE_HZ) * (0.05 + 0.07 * video))).astype(np.float32)


def pictures(video: int) -> list[np.ndarray]:
    """Smooth, so that a codec changes them little, and of the encoder's size."""
    draw = np.random.default_rng(video)
    coarse = draw.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    return [cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for picture in coarse]


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory,
    write_media: Callable[..., Path],
    make_interactions: Callable[..., Interactions],
    make_dataset: Callable[..., Dataset],
) -> Platform:
    folder, draw = tmp_path_factory.mktemp("platform"), np.random.default_rng(0)
    files = [
        write_media(folder / f"v{row}.mp4", pictures(row), tone=tone(row), tone_rate_hz=RATE_HZ) for row in range(3)
    ]
    silent = write_media(folder / "v4.mp4", pictures(4))
    params = draw.normal(size=(NUM_VIDEOS, 2)).astype(np.float32)
    params[5] = np.nan
    number = NumericColumn(draw.normal(size=NUM_VIDEOS).astype(np.float32), np.ones(NUM_VIDEOS, bool), 0.0, 1.0)
    colour = CategoricalColumn(draw.integers(3, size=NUM_VIDEOS).astype(np.int32), ("red", "blue"))
    tags = CategoricalColumn(np.array([[1, 0], [1, 2], [2, 1], [0, 0], [2, 0], [0, 0]], np.int32), ("funny", "new"))
    columns = FeatureColumns({"colour": colour}, {"tags": tags}, {"number": number})
    dataset = make_dataset(
        make_interactions([(u, v, 1) for u in range(4) for v in range(NUM_VIDEOS)]), None, None, columns
    )
    catalog = replace(
        dataset.videos,
        texts=np.array(TEXTS, object),
        generate_method=CategoricalColumn(np.array([1, 2, 1, 2, 0, 0], np.int32), ("text2video", "image2video")),
        gen_params=params,
        prompts=np.array(PROMPTS, object),
        content={"given": draw.normal(size=(NUM_VIDEOS, 5)).astype(np.float32)},
        media={row: MediaSource(video=path) for row, path in [*enumerate(files), (4, silent)]},
    )
    cache = folder / "cache"
    content = extract_features(catalog, CONFIG, cache)
    block = ContentBlock(content, ["text", "video", "audio", "given"], CONTENT_DIM)
    cold_videos = ColdVideos(random_head(replace(dataset, videos=catalog), content), block, 0.5, 2.0, -1.0)
    encoders = Encoders.of(catalog, content, CONFIG, cache)
    assert encoders is not None
    encoder = VideoEncoder(cold_videos, content, encoders, catalog, appeal, NOW)
    return Platform(catalog, cache, content, cold_videos, encoder)


def appeal(created_at: tf.Tensor) -> tf.Tensor:
    """Falls with the age; known videos only have one."""
    return APPEAL * tf.where(created_at > 0, tf.exp(tf.cast(created_at - NOW, tf.float32) / NOW), 0.0)


def random_head(dataset: Dataset, content: ContentFeatures) -> ColdStartModel:
    """A cold-start head over a candidate tower, all weights drawn."""
    tf.keras.utils.set_random_seed(0)
    config = RetrievalConfig(
        embedding_dim=DIM, query=QueryConfig(history_length=3), candidate=CandidateConfig(adapter_units=8)
    )
    retrieval = RetrievalModel(config, dataset, content, RetrievalBatches(dataset.interactions, 3, 8, 4, 0, 1))
    embeddings = retrieval.embed_catalogue()
    head = ColdStartModel(ColdStartConfig(hidden_units=16), retrieval, content, embeddings, 1)
    head.embed_videos(np.arange(2))
    draw = np.random.default_rng(1)
    for layer in (retrieval.candidate_tower, head.encoder, head.moments, head.correction):
        for variable in layer.trainable_variables:
            variable.assign(draw.normal(scale=0.3, size=variable.shape))
    return head


def offline(platform: Platform, row: int, *modalities: str, columns: tf.Tensor | None = None) -> np.ndarray:
    """The embedding that the offline features of a video give, with some of its modalities, made now."""
    values = {name: tf.constant(item.values[[row]]) for name, item in platform.content.modalities.items()}
    lengths = {
        name: tf.constant(item.lengths[[row]] * (name in modalities))
        for name, item in platform.content.modalities.items()
    }
    embedding = platform.cold_videos.embed(values, lengths, columns)[0].numpy()[0]
    embedding[-1] += APPEAL
    return embedding


def jpeg(picture: np.ndarray) -> bytes:
    """With its colours at full resolution: pictures as small as these lose them otherwise."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def wav(waveform: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    channels = waveform[:, None] if waveform.ndim == 1 else waveform
    return tf.audio.encode_wav(tf.constant(channels, tf.float32), rate_hz).numpy()


def request(platform: Platform, row: int, **changed: Any) -> dict[str, np.ndarray]:
    """All that is known of a video, as a client sends it; keywords replace inputs."""
    catalog, frames, sound = platform.catalog, np.full(NUM_FRAMES, b"", object), b""
    if row in catalog.media:
        read = read_frames(catalog.media[row].video, NUM_FRAMES, SIZE)
        frames[: len(read)] = [jpeg(frame) for frame in read]
        sound = wav(read_audio([catalog.media[row].video], RATE_HZ, 30.0)) if row < 3 else b""
    method = ("", *catalog.generate_method.vocabulary)[catalog.generate_method.codes[row]]
    inputs = {"title": f"{TEXTS[row]}.", "frames": frames, "audio": sound, "generate_method": method}
    inputs |= {"gen_params": catalog.gen_params[row]} | changed
    return {name: np.array([value], np.float32 if name == "gen_params" else object) for name, value in inputs.items()}


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


NOTHING = {
    "title": "",
    "frames": np.full(1, b"", object),
    "audio": b"",
    "generate_method": "",
    "gen_params": [np.nan] * 2,
}


@pytest.mark.parametrize("row", [0, 1, 2, 5])
def test_a_video_gets_the_embedding_of_the_offline_pipeline(platform, row):
    served = platform.encoder.call("embed_video", request(platform, row))
    assert cosine(served["embedding"][0], offline(platform, row, "text", "video", "audio", "generation")) > 0.999
    assert served["log_variance"].shape == served["embedding"].shape == (1, CONTENT_DIM + DIM)
    assert (served["log_variance"][0, :CONTENT_DIM] == LEAST_LOG_VARIANCE).all()


@pytest.mark.parametrize("row", range(NUM_VIDEOS))
def test_with_its_row_of_the_table_a_video_gets_the_embedding_of_the_catalogue(platform, row):
    columns, tower = platform.catalog.columns, platform.cold_videos.head._retrieval().candidate_tower
    colour = columns.categorical["colour"]
    cells = {
        "unheard of": "7",
        "number": f" {columns.numeric['number'].values[row]} ",
        "colour": ("null", *colour.vocabulary)[colour.codes[row]],
        "tags": TAGS[row],
    }
    inputs = request(platform, row, title=TITLES[row], prompt=PROMPTS[row]) | {
        "created_at": np.array([NOW - 500]),
        "column": np.array([list(cells)], object),
        "value": np.array([list(cells.values())], object),
    }
    modalities = ("text", "video", "audio", "generation")
    expected = offline(platform, row, *modalities, columns=tower.embed_columns(tf.constant([row])))
    expected[-1] += APPEAL * (np.exp(-0.5) - 1)
    served = platform.encoder.call("embed_video_row", inputs)["embedding"][0]
    assert cosine(served, expected) > 0.999
    np.testing.assert_allclose(served[-1], expected[-1], atol=0.03)
    bare = inputs | {"value": np.full_like(inputs["value"], "")}
    assert np.abs(platform.encoder.call("embed_video_row", bare)["embedding"][0] - expected).max() > 0.1


@pytest.mark.parametrize(
    ("sent", "modality"), [("title", "text"), ("frames", "video"), ("audio", "audio"), ("gen_params", "generation")]
)
def test_one_modality_alone_is_enough_and_each_counts(platform, sent, modality):
    whole = request(platform, 1)
    kept = {sent, "generate_method"} if modality == "generation" else {sent}
    inputs = request(platform, 1, **{name: value for name, value in NOTHING.items() if name not in kept})
    np.testing.assert_array_equal(inputs[sent], whole[sent])
    served = platform.encoder.call("embed_video", inputs)["embedding"][0]
    assert cosine(served, offline(platform, 1, modality)) > 0.999
    assert np.abs(served - offline(platform, 1)).max() > 0.01


def test_without_anything_the_embedding_is_that_of_a_video_of_which_nothing_is_known(platform):
    served = platform.encoder.call("embed_video", request(platform, 0, **NOTHING))
    np.testing.assert_allclose(served["embedding"][0], offline(platform, 0), atol=1e-5)
    narrow = request(platform, 0, **NOTHING) | {
        "gen_params": np.zeros((1, 0), np.float32),
        "frames": np.zeros((1, 0), object),
    }
    np.testing.assert_array_equal(platform.encoder.call("embed_video", narrow)["embedding"], served["embedding"])


def test_rows_of_a_batch_do_not_see_each_other(platform):
    rows = [request(platform, row) for row in (0, 4, 1, 3)]
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    together = platform.encoder.call("embed_video", batch)
    for place, row in enumerate(rows):
        alone = platform.encoder.call("embed_video", row)
        for name in ("embedding", "log_variance"):
            np.testing.assert_allclose(together[name][place], alone[name][0], atol=1e-4)


def test_a_prompt_is_embedded_before_the_video_is_rendered(platform):
    metadata = {name: request(platform, 3)[name] for name in ("generate_method", "gen_params")}
    served = platform.encoder.call("embed_prompt", {"prompt": np.array(["a red dog"], object), **metadata})
    assert cosine(served["embedding"][0], offline(platform, 3, "generation")) > 0.999
    without = platform.encoder.call("embed_prompt", {"prompt": np.array([""], object), **metadata})
    assert np.abs(without["embedding"] - served["embedding"]).max() > 1e-3


def test_gen_params_of_another_width_are_refused(platform):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have 2 numbers per video"):
        platform.encoder.call("embed_video", request(platform, 0, gen_params=[1.0, 2.0, 3.0]))


def test_tensorflow_alone_embeds_what_the_library_embeds(platform, tmp_path):
    platform.encoder.save(tmp_path / "1")
    assert_stock(tmp_path / "1")
    inputs = request(platform, 1)
    (tmp_path / "frame.jpg").write_bytes(inputs["frames"][0, 0])
    (tmp_path / "sound.wav").write_bytes(inputs["audio"][0])
    code = """
import pathlib, sys
import tensorflow as tf
folder = pathlib.Path(sys.argv[1])
signatures = tf.saved_model.load(str(folder / "1")).signatures
metadata = {"generate_method": tf.constant(["text2video"]), "gen_params": tf.constant([[0.5, float("nan")]])}
served = signatures["serving_default"](
    title=tf.constant(["a dog"]), frames=tf.constant([[(folder / "frame.jpg").read_bytes(), b""]]),
    audio=tf.constant([(folder / "sound.wav").read_bytes()]), **metadata)
signatures["embed_prompt"](prompt=tf.constant(["a dog"]), **metadata)
assert not {"tfrec", "tensorflow_text", "tensorflow_hub", "tf_keras"} & set(sys.modules)
print(*served["embedding"].numpy()[0])
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, "-I", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    frames = np.array([inputs["frames"][0, 0], b""], object)
    same = request(platform, 1, title="a dog", frames=frames, generate_method="text2video", gen_params=[0.5, np.nan])
    expected = platform.encoder.call("embed_video", same)["embedding"][0]
    np.testing.assert_allclose([float(number) for number in done.stdout.split()], expected, atol=1e-4)


def test_the_graph_holds_no_catalogue(platform):
    for function in platform.encoder.functions.values():
        captured = [tensor.shape for tensor, _ in function.graph.captures if tensor.dtype != tf.resource]
        shapes = captured + [variable.shape for variable in function.variables]
        # A convolution has four dimensions.
        assert not [shape for shape in shapes if shape.rank in (1, 2, 3) and shape[0] == NUM_VIDEOS]


def test_warm_up_calls_fit_the_signatures(platform):
    calls = platform.encoder.warmup_calls(platform.catalog, 7)
    assert [(call.signature, len(call.inputs["gen_params"])) for call in calls] == [
        ("serving_default", 1), ("embed_video_row", 1), ("embed_prompt", 1),
        ("serving_default", 8), ("embed_video_row", 8), ("embed_prompt", 8), ("serving_default", 1),
    ]  # fmt: skip
    for call in calls[:6]:
        assert np.isfinite(platform.encoder.call(call.signature, call.inputs)["embedding"]).all()


def test_there_is_no_encoder_for_what_the_dataset_brought_itself(platform, tmp_path):
    given = ContentFeatures({"given": platform.content.modalities["given"]}, {})
    assert Encoders.of(platform.catalog, given, CONFIG, tmp_path) is None


@pytest.mark.parametrize("shape", [(32, 32), (100, 75), (48, 200), (33, 32), (20, 24), (1, 1)])
def test_pictures_are_cropped_and_resized_as_offline(shape):
    draw = np.random.default_rng(3)
    picture = cv2.resize(draw.integers(0, 256, (5, 5, 3)).astype(np.uint8), shape, interpolation=cv2.INTER_LINEAR)
    encoded = jpeg(picture)
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    served = decode_frames(tf.constant([encoded]), 32)[0][0].numpy()
    expected = to_square(decoded, 32)
    assert np.abs(served.astype(int) - expected).max() <= (0 if shape == (32, 32) else 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_of_the_right_size_loses_nothing(channels):
    picture = np.random.default_rng(4).integers(0, 256, (SIZE, SIZE, channels)).astype(np.uint8)
    encoded = png(picture) if channels == 3 else cv2.imencode(".png", picture)[1].tobytes()
    served = decode_frames(tf.constant([encoded]), SIZE)[0][0].numpy()
    expected = picture if channels == 3 else picture[..., ::-1] if channels == 1 else picture[..., 2::-1]
    np.testing.assert_array_equal(served, np.broadcast_to(expected, served.shape))


def test_the_encoder_says_how_media_were_taken(platform):
    served = platform.encoder.call("media_format", {"title": np.array(["", "any"], object)})
    assert {name: values.tolist() for name, values in served.items()} == {
        "image_size": [SIZE] * 2,
        "num_frames": [NUM_FRAMES] * 2,
        "sampling": [b"uniform"] * 2,
        "frames_per_second": [1.0] * 2,
        "sample_rate_hz": [RATE_HZ] * 2,
        "max_seconds": [CONFIG.audio.max_seconds] * 2,
    }


def test_frames_are_picked_evenly_as_of_a_folder():
    frames = tf.constant([["", "a", "b", "", "", ""], ["", "", "", "", "", ""], ["c", "d", "e", "f", "g", "h"]])
    picked, lengths = pick_frames(frames, 3)
    assert picked.numpy().tolist() == [b"a", b"b", b"d", b"f", b"h"]
    np.testing.assert_array_equal(lengths, [2, 0, 3])


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_sound_of_other_rates_is_resampled(rate_hz):
    seconds = 1.37
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    stereo = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.2 * np.sin(2 * np.pi * 3000 * time)], axis=1)
    waveform = decode_sound(tf.constant(wav(stereo, rate_hz)), RATE_HZ, 30.0).numpy()
    expected = librosa.resample(stereo.mean(axis=1), orig_sr=rate_hz, target_sr=RATE_HZ, res_type="soxr_vhq")
    assert abs(len(waveform) - len(expected)) <= 1
    middle = slice(500, 20_000)
    np.testing.assert_allclose(waveform[middle], expected[middle], atol=2e-3)


def test_sound_is_cut_at_its_limit_and_rates_that_no_sound_has_are_refused():
    assert len(decode_sound(tf.constant(wav(tone(0))), RATE_HZ, 0.25)) == 4000
    assert len(decode_sound(tf.constant(""), RATE_HZ, 0.25)) == 0
    assert len(decode_sound(tf.constant(wav(tone(0), 2_000_000_000)), RATE_HZ, 30.0)) == 0


DAMAGED = {
    "no picture": b"no picture",
    "its first bytes": jpeg(pictures(0)[0])[:3],
    "cut in the header": jpeg(pictures(0)[0])[:200],
    "cut in the picture": jpeg(pictures(0)[0])[:-300],
    "GIF": b"GIF89a" + bytes(50),
    "PNG, its first bytes": png(pictures(0)[0])[:12],
    "PNG, cut in the picture": png(pictures(0)[0])[:-300],
    "PNG, 100,000 pixels wide and high": png(pictures(0)[0]).replace(
        SIZE.to_bytes(4, "big") * 2, (100_000).to_bytes(4, "big") * 2
    ),
    "PNG of a negative size": png(pictures(0)[0]).replace(SIZE.to_bytes(4, "big") * 2, b"\xff" * 8),
    "65,500 pixels wide and high": jpeg(np.zeros((8, 8, 3), np.uint8)).replace(
        b"\x08\x00\x08\x00\x08\x03", b"\x08\xff\xdc\xff\xdc\x03"
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_frames_that_cannot_be_read_are_left_out(damage):
    good = jpeg(pictures(1)[0])
    frames, places = decode_frames(tf.constant([good, DAMAGED[damage], good]), SIZE)
    np.testing.assert_array_equal(places, [0, 2])
    np.testing.assert_array_equal(frames[0], frames[1])
    none, places = decode_frames(tf.constant([DAMAGED[damage]]), SIZE)
    assert none.shape == (0, SIZE, SIZE, 3)
    assert places.shape == (0,)


@pytest.mark.parametrize("damage", ["no sound", "RIFF", "the header alone", "an impossible rate"])
def test_damaged_media_cost_their_own_modality_only(platform, damage):
    sound = wav(tone(0))
    broken = {"no sound": b"\0" * 50, "RIFF": sound[:4], "the header alone": sound[:20]}
    broken["an impossible rate"] = wav(tone(0), 2_000_000_000)
    good = request(platform, 0)
    frames = good["frames"][0].copy()
    frames[1] = b"\xff\xd8\xff damaged"
    bad = request(platform, 1, audio=broken[damage], frames=np.full(NUM_FRAMES, b"damaged", object))
    some = request(platform, 0, frames=frames)
    batch = {name: np.concatenate([row[name] for row in (bad, good, some)]) for name in good}
    served = platform.encoder.call("embed_video", batch)["embedding"]
    assert cosine(served[0], offline(platform, 1, "text", "generation")) > 0.999
    assert cosine(served[1], offline(platform, 0, "text", "video", "audio", "generation")) > 0.999
    shorter = request(platform, 0, frames=np.delete(frames, 1))
    np.testing.assert_allclose(served[2], platform.encoder.call("embed_video", shorter)["embedding"][0], atol=1e-4)


def test_what_the_lower_rate_cannot_carry_is_cut_off():
    time = np.arange(48_000) / 48_000
    tones = np.sin(2 * np.pi * 1000 * time) + np.sin(2 * np.pi * 12_000 * time)
    kept = resample(tf.constant(tones, tf.float32), tf.constant(48_000), 16_000).numpy()
    np.testing.assert_allclose(kept, np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000), atol=1e-4)
