"""Encodes the media and texts of a dataset folder into the feature cache, ahead of training.

    python pipelines/extract_features.py --data DIR --output DIR [--features.option value]

Train with `--features.cache DIR` afterwards: nothing is encoded twice. A run that was stopped continues where it was.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout need not be installed

from jsonargparse import auto_cli

from tfrec.config import DataConfig, FeaturesConfig
from tfrec.errors import TfrecError

_DEFAULTS = FeaturesConfig()


def extract(
    data: Path,
    output: Path,
    features: FeaturesConfig = _DEFAULTS,
    max_rejected: float = 0.01,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    num_workers: int = 1,
    num_gpus_per_worker: float = 0.0,
) -> None:
    """Encodes the media and texts of a dataset folder into the feature cache.

    Args:
        data: dataset folder.
        output: folder of the feature cache; `rejected.csv` lists the media that cannot be used.
        features: encoders and workers.
        max_rejected: share of bad rows or files above which the command fails.
        engine: where media are decoded and encoded: on this machine, or on a Ray cluster.
        address: of the cluster; by default one is started on this machine.
        num_workers: of the cluster that encode; everything else decodes.
        num_gpus_per_worker: may be a part of one.
    """
    from rich.table import Table

    from tfrec.console import console, progress_bar
    from tfrec.data.dataset import REJECTED_FILE, load_dataset
    from tfrec.data.rejects import MEDIA, RejectLog

    start = time.monotonic()
    rejects = RejectLog(REJECTED_FILE, "--max_rejected")
    dataset = load_dataset(DataConfig(folder=data, max_rejected=max_rejected), output, rejects)
    videos = dataset.videos
    from tfrec.features.extract import extract_features  # after the dataset was found good: it loads TensorFlow

    opened: AbstractContextManager[Any] = nullcontext()
    if engine == "ray":
        from tfrec.features.ray_media import open_media

        opened = open_media(address, num_workers, num_gpus_per_worker)
    with opened as media, progress_bar("Encoding", "videos") as progress:
        content = extract_features(videos, features, output.absolute(), dataset.rejects, progress, media)
    dataset.rejects.write(output / REJECTED_FILE)
    dataset.rejects.check(MEDIA, max_rejected)
    table = Table("modality", "videos", "shape", "encoded now", "encoder")
    for name, modality in content.modalities.items():
        present = f"{(modality.lengths > 0).sum():,} of {len(videos):,}"
        now = f"{content.encoded.get(name, 0):,}"
        table.add_row(name, present, str(list(modality.values.shape[1:])), now, content.encoders[name])
    console.print(table)
    seconds = time.monotonic() - start
    encoded = max(content.encoded.get(name, 0) for name in ("video", "audio"))
    console.print(f"{seconds:.1f} s, {encoded / seconds:,.1f} videos/s; cache: {output}")


if __name__ == "__main__":
    try:
        auto_cli(extract, as_positional=False)
    except TfrecError as error:
        sys.exit(f"error: {error}")
