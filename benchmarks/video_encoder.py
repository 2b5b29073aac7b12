"""How long `video_encoder` takes for a video, beside its encoders called alone, and whether it gives what the index holds.

    python benchmarks/video_encoder.py [--data ../shared/data/clips] [--hub ../shared/hub] [--models DIR/models]

The model is that of a run over real clips with the pretrained modules; without `--models` one is trained for an epoch per stage,
since time does not depend on how well it is trained. A process with TensorFlow and TF-Text alone loads it. Its encoders are
the TF Hub modules as they are, and the MFCC; decoding JPEG and WAV counts for `video_encoder` only. Calls take turns, and the
ratio is that of medians.

A model that is trained here never sees the events of every fifth clip, which so are cold: printed is the cosine of what the
index holds of each, which the offline pipeline made, and of what `embed_video_row` makes of the file and the row of videos.csv,
as the client sends them; and the same where frames are sent as JPEG (quality 95) of 256 pixels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
SIZE, NUM_FRAMES, RATE_HZ = 224, 8, 16_000

FRESH = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_text
model = tf.saved_model.load(sys.argv[1])
jpeg, wav = open(sys.argv[2], "rb").read(), open(sys.argv[3], "rb").read()
output = model.signatures["embed_video"](
    title=tf.constant(["a cat in the snow"]), frames=tf.constant([[jpeg]]), audio=tf.constant([wav]),
    generate_method=tf.constant([""]), gen_params=tf.zeros([1, 0]))
foreign = sorted({name.split(".")[0] for name in sys.modules} & {"tfrec", "tensorflow_recommenders", "tensorflow_hub", "cv2"})
print(json.dumps({"shape": output["embedding"].shape.as_list(), "foreign": foreign,
                  "finite": bool(np.isfinite(output["embedding"]).all())}))
"""


def with_cold_videos(data: Path, folder: Path, every: int = 5) -> list[str]:
    """Makes a dataset folder without the events of every so many videos, whose ids are returned."""
    import pandas as pd

    folder.mkdir()
    videos = pd.read_csv(data / "videos.csv", dtype=str).video_id
    cold = videos[videos.map(lambda name: (data / "videos" / f"{name}.mp4").exists())].iloc[::every]
    for path in data.resolve().iterdir():
        if path.name.startswith("interactions."):
            log = pd.read_csv(path, dtype=str)
            log[~log.video_id.isin(cold)].to_csv(folder / path.name, index=False)
        else:
            (folder / path.name).symlink_to(path)
    return list(cold)


def show_agreement(models: Path, data: Path, cold: list[str]) -> None:
    """Cosines of what the index holds of cold videos and of what the encoder makes of their files and rows."""
    import cv2
    import numpy as np
    import pandas as pd
    import tensorflow as tf

    from serving.remote import calls
    from serving.remote.media import read_video

    table = pd.read_csv(data / "videos.csv", dtype=str, keep_default_na=False).set_index("video_id")
    encoder = tf.saved_model.load(str(models / "video_encoder" / "1")).signatures
    held = tf.saved_model.load(str(models / "recommender" / "1")).signatures["embed_candidate"]

    def ask(call: calls.Call[Any]) -> Any:
        answer = encoder[call.signature](**{name: tf.constant(value) for name, value in call.inputs.items()})
        return call.read({name: value.numpy() for name, value in answer.items()})

    def as_jpeg(png: bytes) -> bytes:
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()

    def embedded(row: Any, frames: list[bytes], sound: bytes) -> Any:
        video = calls.embed_video(
            row.title, frames, sound, row.get("generate_method", ""), json.loads(row.get("gen_params") or "[]")
        )
        cells = row.drop(["title", "generate_method", "gen_params", "prompt", "created_at"], errors="ignore").to_dict()
        return ask(calls.embed_video_row(video, row.get("prompt", ""), -1, cells)).embedding

    wanted = ask(calls.media_format())
    cosines: dict[str, list[float]] = {"PNG as `media_format` says": [], "JPEG of 256 pixels": []}
    for video_id in cold:
        path, row = data / "videos" / f"{video_id}.mp4", table.loc[video_id]
        expected = held(video_id=tf.constant([video_id]))["embedding"].numpy()[0]
        frames, sound = read_video(path, wanted)
        larger, _ = read_video(path, replace(wanted, image_size=256))
        for name, sent in zip(cosines, (frames, [as_jpeg(frame) for frame in larger]), strict=True):
            found = np.array(embedded(row, sent, sound))
            # Their last dimension is appeal, to which the unknown date of creation adds.
            left, right = found[:-1], expected[:-1]
            cosines[name].append(float(left @ right / np.linalg.norm(left) / np.linalg.norm(right)))
    for name, values in cosines.items():
        below = sum(value < 0.999 for value in values)
        print(
            f"{name}: {len(values)} cold clips, cosine {min(values):.5f} at least, median {np.median(values):.5f}, {below} < .999"
        )


def trained(data: Path, hub: Path, output: Path) -> Path:
    """The models of a short run over the clips with the pretrained modules."""
    short = [f"--{stage}.epochs=1" for stage in ("retrieval", "cold_start", "ranking")]
    modules = [
        f"--features.text.preprocessor={hub / 'minilm_en_uncased_preprocess'}",
        f"--features.text.encoder={hub / 'minilm_en_uncased_L-6_H-384_A-12'}",
        f"--features.image.encoder={hub / 'mobilenet_v2_100_224_feature_vector'}",
        f"--features.image.image_size={SIZE}",
    ]
    line = [sys.executable, "-m", "tfrec.train", f"--data={data}", f"--output={output}", *modules, *short]
    subprocess.run([*line, "--evaluation.baselines=[popularity]"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return output / "models"


def medians(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call; the calls take turns, and the first turn does not count."""
    import numpy as np

    turns = [[_milliseconds(call) for call in calls.values()] for _ in range(repeats + 1)][1:]
    return dict(zip(calls, np.median(turns, axis=0).tolist(), strict=True))


def _milliseconds(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return 1000 * (perf_counter() - start)


def request(batch: int) -> dict[str, Any]:
    """A title, frames of noise and ten seconds of sound, for each video of a batch."""
    import numpy as np
    import tensorflow as tf

    draw = np.random.default_rng(0)
    picture = tf.image.resize(draw.uniform(0, 255, (9, 9, 3)), [SIZE, SIZE])
    jpeg = tf.io.encode_jpeg(tf.cast(picture, tf.uint8)).numpy()
    wav = tf.audio.encode_wav(draw.uniform(-0.5, 0.5, (10 * RATE_HZ, 1)).astype(np.float32), RATE_HZ).numpy()
    return {
        "title": tf.constant(["a cat in the snow"] * batch),
        "frames": tf.constant([[jpeg] * NUM_FRAMES] * batch),
        "audio": tf.constant([wav] * batch),
        "generate_method": tf.constant([""] * batch),
        "gen_params": tf.zeros([batch, 0]),
    }


def encoder_calls(hub: Path, batch: int) -> dict[str, Callable[[], Any]]:
    """The encoders alone, on inputs already decoded."""
    import tfrec  # noqa: F401  (chooses Keras 2)

    import tensorflow as tf  # isort: skip
    import tensorflow_text  # noqa: F401  # isort: skip

    from tfrec.config import AudioConfig
    from tfrec.features.audio import AudioEncoder

    preprocess = tf.saved_model.load(str(hub / "minilm_en_uncased_preprocess"))
    bert = tf.saved_model.load(str(hub / "minilm_en_uncased_L-6_H-384_A-12"))
    cnn = tf.saved_model.load(str(hub / "mobilenet_v2_100_224_feature_vector"))
    audio = AudioEncoder(AudioConfig())
    text = tf.function(lambda titles: bert(preprocess(titles)))
    image = tf.function(lambda frames: cnn(frames))
    sound = tf.function(audio)
    titles = tf.constant(["a cat in the snow"] * batch)
    frames = tf.random.uniform([batch * NUM_FRAMES, SIZE, SIZE, 3])
    waveforms = tf.random.uniform([batch, 10 * RATE_HZ], -0.5, 0.5)
    lengths = tf.fill([batch], 10 * RATE_HZ)
    return {
        "text": lambda: text(titles),
        "video": lambda: image(frames),
        "audio": lambda: sound(waveforms, lengths),
    }


def fresh_process(model: Path, folder: Path) -> dict[str, Any]:
    """What a process with TensorFlow and TF-Text alone makes of a JPEG, a WAV and a title."""
    inputs = {name: value.numpy() for name, value in request(1).items()}
    (folder / "a.jpg").write_bytes(inputs["frames"][0, 0])
    (folder / "a.wav").write_bytes(inputs["audio"][0])
    line = [sys.executable, "-c", FRESH, str(model), str(folder / "a.jpg"), str(folder / "a.wav")]
    done = subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/clips"))
    parser.add_argument("--hub", type=Path, default=Path("../shared/hub"))
    parser.add_argument("--models", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        models, cold = arguments.models, []
        if models is None:
            cold = with_cold_videos(arguments.data, Path(scratch) / "data")
            models = trained(Path(scratch) / "data", arguments.hub, Path(scratch) / "run")
        versions = [folder for folder in (models / "video_encoder").iterdir() if folder.name.isdigit()]
        newest = max(versions, key=lambda folder: int(folder.name))
        encoders = encoder_calls(arguments.hub, 1)
        import tensorflow as tf

        if cold:
            show_agreement(models, arguments.data, cold)
        print("fresh process with TensorFlow and TF-Text alone:", fresh_process(newest.resolve(), Path(scratch)))
        embed = tf.saved_model.load(str(newest)).signatures["embed_video"]
        print("| batch | " + " | ".join([f"{name}, ms" for name in encoders]) + " | sum | video_encoder, ms | ratio |")
        print("| --- " * (len(encoders) + 4) + "|")
        for batch in (1, 8):
            inputs = request(batch)
            calls = {**encoder_calls(arguments.hub, batch), "whole": lambda inputs=inputs: embed(**inputs)}
            taken = medians(calls, arguments.repeats)
            whole = taken.pop("whole")
            parts = [f"{value:.1f}" for value in (*taken.values(), sum(taken.values()), whole)]
            print(f"| {batch} | {' | '.join(parts)} | {whole / sum(taken.values()):.2f} |")


if __name__ == "__main__":
    main()
