"""The `video_encoder` SavedModel: raw media to an embedding in the index's space, for a video that is in no catalogue yet.

`embed_video` does in the graph what the offline pipeline does for a cold video: encoders, VAE head, and what the index adds
to the appeal of a video that nobody has watched, made just now. Any modality may be missing.

`embed_video_row` takes whatever else a row of `videos.csv` says (side columns as cells, prompt, date of creation), and gives what
the index holds of that video while nobody has watched it. In `embed_video` side columns and prompt are missing, the video is made
just now, and `title` is the whole text, which the offline pipeline makes of title, tags, prompt and text columns by joining them
with ". ". `media_format` says how frames and sound were taken in training, which those of a request should be. `embed_prompt` is
asked before the video is rendered. Embeddings that the dataset brought itself are missing in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfrec.config import FeaturesConfig
from tfrec.data.schema import Catalog
from tfrec.encoders.image import ImageEncoder
from tfrec.encoders.text import TextEncoder
from tfrec.export.column_input import Cells, ColumnInput, join_texts, split_list
from tfrec.export.generation_input import GenerationInput
from tfrec.export.log_requests import Inputs, SignatureCall, tensors
from tfrec.export.media_input import decode_frames, decode_sound, pick_frames
from tfrec.export.ops import foreign, function_ops
from tfrec.features.audio import AudioEncoder
from tfrec.features.content import ContentFeatures
from tfrec.features.generation import GenerationEncoder
from tfrec.features.modules import image_encoder, text_encoder
from tfrec.models.cold_start import GENERATION
from tfrec.models.cold_videos import ColdVideos

Features = Mapping[str, tuple[tf.Tensor, tf.Tensor]]
"""Values and lengths by modality, as `ColdVideos.embed` takes them."""

ENCODED = ("text", "video", "audio", GENERATION)
"""Modalities that are made from what a request carries."""

_METADATA_SPECS = (
    tf.TensorSpec([None], tf.string, "generate_method"),
    tf.TensorSpec([None, None], tf.float32, "gen_params"),
)
VIDEO_SPECS = (
    tf.TensorSpec([None], tf.string, "title"),
    tf.TensorSpec([None, None], tf.string, "frames"),
    tf.TensorSpec([None], tf.string, "audio"),
    *_METADATA_SPECS,
)
ROW_SPECS = (
    *VIDEO_SPECS,
    tf.TensorSpec([None], tf.string, "prompt"),
    tf.TensorSpec([None], tf.int64, "created_at"),
    tf.TensorSpec([None, None], tf.string, "column"),
    tf.TensorSpec([None, None], tf.string, "value"),
)
FORMAT_SPECS = (tf.TensorSpec([None], tf.string, "title"),)
PROMPT_SPECS = (tf.TensorSpec([None], tf.string, "prompt"), *_METADATA_SPECS)

_BATCH_SIZES = (1, 8)
"""Of the warm-up requests."""


@dataclass(frozen=True)
class Encoders:
    """What turns a request into content features; None where the catalogue lacks the modality.

    Args:
        config: of the encoders.
        text: of titles.
        image: of frames.
        audio: of sound.
        generation: of generation metadata, prompts among it.
    """

    config: FeaturesConfig
    text: TextEncoder | None
    image: ImageEncoder | None
    audio: AudioEncoder | None
    generation: GenerationInput | None

    @classmethod
    def of(
        cls,
        videos: Catalog,
        content: ContentFeatures,
        config: FeaturesConfig,
        cache: Path,
        tuned: Mapping[str, Path] | None = None,
    ) -> Encoders | None:
        """The encoders that made the content features of a catalogue.

        Args:
            videos: the catalogue.
            content: its features.
            config: that they were made with.
            cache: that holds the modules which the project built.
            tuned: folders of the encoders that were trained, by modality; prompts go through the encoder as it was before.

        Returns:
            None where nothing that a request carries is among the features.
        """
        names = set(content.modalities).intersection(ENCODED) - set(videos.content)
        if not names:
            return None
        has_prompts = GENERATION in names and bool(np.any(videos.prompts != ""))
        tuned = tuned or {}
        text = text_encoder(config.text, cache, list, tuned.get("text")) if "text" in names or has_prompts else None
        generation = None
        if GENERATION in names:
            frozen = text_encoder(config.text, cache, list) if "text" in tuned and has_prompts else text
            prompt = frozen if has_prompts else None
            generation = GenerationInput(GenerationEncoder.fit(videos, prompt.dim if prompt else 0), prompt)
        return cls(
            config,
            text=text if "text" in names else None,
            image=image_encoder(config.image, cache, _no_frames, tuned.get("video")) if "video" in names else None,
            audio=AudioEncoder(config.audio) if "audio" in names else None,
            generation=generation,
        )

    def tracked(self) -> list[Any]:
        """The objects behind them that a SavedModel has to keep: tables and vocabularies among them."""
        modules = [self.generation]
        if self.text is not None:
            modules += [self.text.preprocessor, self.text.encoder]
        return modules if self.image is None else [*modules, self.image.module]


class VideoEncoder:
    """The exported functions.

    Args:
        cold_videos: what embeds them.
        content: the features that it was trained on.
        encoders: which made them.
        videos: the catalogue, whose columns `embed_video_row` knows.
        appeal: what the index adds to the last dimension of videos that nobody has watched: from their dates of creation, int64
            `[B]` Unix seconds, 0 where unknown, to float32 `[B]`.
        now: Unix seconds of publication.
    """

    def __init__(
        self,
        cold_videos: ColdVideos,
        content: ContentFeatures,
        encoders: Encoders,
        videos: Catalog,
        appeal: Callable[[tf.Tensor], tf.Tensor],
        now: int,
    ) -> None:
        self._cold_videos = cold_videos
        self._encoders = encoders
        self._columns, self._text_columns = ColumnInput(videos.columns), videos.text_columns
        self._appeal, self._now = appeal, now
        self._shapes = {name: modality.values.shape[1:] for name, modality in content.modalities.items()}
        self.functions: Mapping[str, tf.types.experimental.ConcreteFunction] = self._trace()
        self.foreign_ops = set().union(*(foreign(function_ops(function)) for function in self.functions.values()))
        """Ops of the encoders that a stock server lacks: where there are any, nothing can be published."""

    def call(self, signature: str, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """Answers a request in this process.

        Args:
            signature: name of the signature.
            inputs: its inputs by name.

        Returns:
            Its outputs by name.
        """
        function, values = self.functions[signature], tensors(inputs)
        arguments = [values[spec.name] for spec in function.structured_input_signature[0]]
        return {name: output.numpy() for name, output in function(*arguments).items()}

    def save(self, folder: Path) -> None:
        """Writes the SavedModel.

        Args:
            folder: made if missing.
        """
        root = tf.Module(name="video_encoder")
        root.weights = list({id(v): v for function in self.functions.values() for v in function.variables}.values())
        root.modules = [*self._encoders.tracked(), self._columns]
        tf.saved_model.save(root, str(folder), self.functions)

    def warmup_calls(self, videos: Catalog, count: int) -> list[SignatureCall]:
        """Requests with the catalogue's texts and metadata, grey frames and a second of silence.

        Args:
            videos: the catalogue.
            count: requests wanted; signatures and batch sizes take turns.
        """
        kinds = [
            (name, size) for size in _BATCH_SIZES for name in ("serving_default", "embed_video_row", "embed_prompt")
        ]
        kinds = [kind for kind in kinds if kind[0] in self.functions]
        return [
            SignatureCall(name, self._example(videos, name, (number + np.arange(size)) % len(videos)))
            for number, (name, size) in ((number, kinds[number % len(kinds)]) for number in range(count))
        ]

    def _trace(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """One function per signature; `embed_prompt` where the catalogue has generation metadata."""
        embed_video = tf.function(self._embed_video, VIDEO_SPECS).get_concrete_function()
        embed_row = tf.function(self._embed_video_row, ROW_SPECS).get_concrete_function()
        media_format = tf.function(self._media_format, FORMAT_SPECS).get_concrete_function()
        functions = {
            "serving_default": embed_video,
            "embed_video": embed_video,
            "embed_video_row": embed_row,
            "media_format": media_format,
        }
        if self._encoders.generation is not None:
            functions["embed_prompt"] = tf.function(self._embed_prompt, PROMPT_SPECS).get_concrete_function()
        return functions

    def _embed_video(
        self,
        title: tf.Tensor,
        frames: tf.Tensor,
        audio: tf.Tensor,
        generate_method: tf.Tensor,
        gen_params: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        features = self._features(title, frames, audio)
        if self._encoders.generation is not None:
            features[GENERATION] = self._encoders.generation(generate_method, gen_params)
        return self._embed(features, tf.size(title))

    def _embed_video_row(
        self,
        title: tf.Tensor,
        frames: tf.Tensor,
        audio: tf.Tensor,
        generate_method: tf.Tensor,
        gen_params: tf.Tensor,
        prompt: tf.Tensor,
        created_at: tf.Tensor,
        column: tf.Tensor,
        value: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        cells = Cells(column, value)
        tags = tf.strings.reduce_join(split_list(cells["tags"]), axis=1, separator=", ")
        text = join_texts([title, tags, prompt, *(cells[name] for name in self._text_columns)])
        features = self._features(text, frames, audio)
        if self._encoders.generation is not None:
            features[GENERATION] = self._encoders.generation(generate_method, gen_params, prompt)
        columns = self._cold_videos.embed_columns(*self._columns(cells))
        return self._embed(features, tf.size(title), columns, created_at)

    def _features(self, text: tf.Tensor, frames: tf.Tensor, audio: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Those of text and media."""
        encoders, features = self._encoders, {}
        if encoders.text is not None:
            features["text"] = _encode_text(encoders.text, text)
        if encoders.image is not None:
            features["video"] = _encode_frames(encoders.image, encoders.config, frames)
        if encoders.audio is not None:
            features["audio"] = _encode_sound(encoders.audio, encoders.config, audio)
        return features

    def _media_format(self, title: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same for every title: a signature has inputs, and rows."""
        image, audio = self._encoders.config.image, self._encoders.config.audio
        values = {name: getattr(image, name) for name in ("image_size", "num_frames", "sampling", "frames_per_second")}
        values |= {name: getattr(audio, name) for name in ("sample_rate_hz", "max_seconds")}
        return {name: tf.fill(tf.shape(title), tf.constant(value)) for name, value in values.items()}

    def _embed_prompt(
        self, prompt: tf.Tensor, generate_method: tf.Tensor, gen_params: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        assert self._encoders.generation is not None
        features = {GENERATION: self._encoders.generation(generate_method, gen_params, prompt)}
        return self._embed(features, tf.size(prompt))

    def _embed(
        self,
        features: Features,
        count: tf.Tensor,
        columns: tf.Tensor | None = None,
        created_at: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The outputs; modalities that are not among the features are missing.

        Args:
            features: of the videos.
            count: how many they are.
            columns: their side columns, for `ColdVideos.embed`.
            created_at: int64 `[B]` Unix seconds, 0 for now, negative where unknown; None for now.
        """
        missing = {
            name: (tf.zeros([count, *shape]), tf.zeros([count], tf.int32)) for name, shape in self._shapes.items()
        }
        present = missing | dict(features)
        values = {name: value for name, (value, _) in present.items()}
        lengths = {name: length for name, (_, length) in present.items()}
        embedding, log_variance = self._cold_videos.embed(values, lengths, columns)
        created_at = tf.zeros([count], tf.int64) if created_at is None else created_at
        appeal = self._appeal(tf.where(created_at == 0, tf.constant(self._now, tf.int64), tf.maximum(created_at, 0)))
        dim = embedding.shape[1]
        return {
            "embedding": embedding + appeal[:, tf.newaxis] * tf.one_hot(dim - 1, dim),
            "log_variance": log_variance,
        }

    def _example(self, videos: Catalog, signature: str, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Inputs made of some rows of the catalogue."""
        method = videos.generate_method
        words = ("", *(method.vocabulary if method else ()))
        codes = method.codes[rows] if method else np.zeros(len(rows), int)
        metadata = {
            "generate_method": np.array([words[code] for code in codes], object),
            "gen_params": videos.gen_params[rows],
        }
        if signature == "embed_prompt":
            return {"prompt": videos.prompts[rows], **metadata}
        image, audio = self._encoders.config.image, self._encoders.config.audio
        jpeg = tf.io.encode_jpeg(tf.fill([image.image_size, image.image_size, 3], tf.constant(128, tf.uint8))).numpy()
        wav = tf.audio.encode_wav(tf.zeros([audio.sample_rate_hz, 1]), audio.sample_rate_hz).numpy()
        details = {}
        if signature == "embed_video_row":
            names = videos.columns.names or ("tags",)
            details = {
                "prompt": videos.prompts[rows],
                "created_at": videos.created_at[rows],
                "column": np.full((len(rows), len(names)), names, object),
                "value": np.full((len(rows), len(names)), "1", object),
            }
        return {
            "title": videos.titles[rows] if details else videos.texts[rows],
            "frames": np.array([[jpeg] * image.num_frames] * len(rows), object),
            "audio": np.array([wav] * len(rows), object),  # `np.full` would cut zeros off its end
            **metadata,
            **details,
        }


def _encode_text(encoder: TextEncoder, title: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    text = join_texts([title])
    present = text != ""
    return tf.where(present[:, tf.newaxis], encoder(text), 0.0), tf.cast(present, tf.int32)


def _encode_frames(encoder: ImageEncoder, config: FeaturesConfig, frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 `[B, num_frames, dim]`, 0 past the end, and int32 `[B]` lengths."""
    num_frames, batch_size = config.image.num_frames, config.image.batch_size
    batch = tf.shape(frames)[0]
    files, counts = pick_frames(frames, num_frames)

    def encode(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pictures, places = decode_frames(files[start : start + batch_size], config.image.image_size)
        # Convolutions of no picture at all come out in a wrong shape: a blank one stands in.
        blank = tf.cast(tf.equal(tf.size(places), 0), tf.int32)
        vectors = encoder(tf.pad(pictures, [[0, blank], [0, 0], [0, 0], [0, 0]]))
        return vectors[: tf.size(places)], start + places

    # In pieces, so that memory does not grow with the request, and without frames the encoder does not run.
    signature = (
        tf.RaggedTensorSpec([None, encoder.dim], tf.float32, ragged_rank=0),
        tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0),
    )
    starts = tf.range(0, tf.size(files), batch_size)
    vectors, places = tf.map_fn(encode, starts, fn_output_signature=signature, parallel_iterations=1)
    vectors = tf.reshape(vectors.merge_dims(0, 1), [-1, encoder.dim])  # no pieces at all come out as [0]
    # A frame that cannot be read is left out, as of a folder of pictures.
    rows = tf.gather(tf.repeat(tf.range(batch), counts), tf.reshape(places.merge_dims(0, 1), [-1]))
    lengths = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, batch)
    slots = tf.cast(tf.where(tf.sequence_mask(lengths, num_frames)), tf.int32)
    return tf.scatter_nd(slots, vectors, [batch, num_frames, encoder.dim]), lengths


def _encode_sound(encoder: AudioEncoder, config: FeaturesConfig, audio: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """float32 `[B, num_steps, dim]`, 0 past the end, and int32 `[B]` lengths."""
    rate_hz, max_seconds = config.audio.sample_rate_hz, config.audio.max_seconds

    def encode(wav: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        waveform = decode_sound(wav, rate_hz, max_seconds)
        steps, lengths = encoder(waveform[tf.newaxis], tf.size(waveform)[tf.newaxis])
        return steps[0], lengths[0]

    steps = tf.TensorSpec([config.audio.num_steps, config.audio.dim], tf.float32)
    return tf.map_fn(encode, audio, fn_output_signature=(steps, tf.TensorSpec([], tf.int32)))


def _no_frames() -> NDArray[np.uint8]:
    """The module was built when the features were made."""
    return np.zeros((0, 0, 0, 3), np.uint8)
