"""How well content features of real clips know their categories: leave-one-out nearest neighbours, per modality and fused.

    python benchmarks/content_quality.py --data DIR --hub DIR [--cache DIR]

`--data` is a dataset folder whose videos.csv has a column `category`; `--hub` holds a TF Hub BERT pair and an image feature
vector. Chance is what random neighbours reach. The fusion learns its weights without the categories
(`tfrec/evaluation/content.py`). A second table is of those videos that have every modality.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfrec.config import DataConfig, FeaturesConfig, ImageConfig, TextConfig
from tfrec.console import progress_bar
from tfrec.data.dataset import load_dataset
from tfrec.data.schema import CategoricalColumn
from tfrec.evaluation.content import GENERATION, category_accuracy
from tfrec.features.content import ContentFeatures
from tfrec.features.extract import extract_features

PREPROCESSOR, TEXT_ENCODER = "minilm_en_uncased_preprocess_core_ops", "minilm_en_uncased_L-6_H-384_A-12"
IMAGE_ENCODER, IMAGE_SIZE = "mobilenet_v2_100_224_feature_vector", 224


def features_config(hub: Path) -> FeaturesConfig:
    """The pretrained modules under `hub`."""
    return FeaturesConfig(
        text=TextConfig(str(hub / PREPROCESSOR), str(hub / TEXT_ENCODER)),
        image=ImageConfig(str(hub / IMAGE_ENCODER), IMAGE_SIZE),
    )


def show(title: str, content: ContentFeatures, category: CategoricalColumn) -> None:
    print(f"{title}\n{'modality':10}  accuracy  chance  videos")
    for name, block in category_accuracy(content, category).items():
        print(f"{name:10}  {block['accuracy']:8.3f}  {block['chance']:6.3f}  {block['videos']:6}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hub", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="of the features; without it they are thrown away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, progress_bar("features", "items") as progress:
        dataset = load_dataset(DataConfig(options.data), Path(scratch))
        cache = options.cache or Path(scratch) / "features"
        content = extract_features(dataset.videos, features_config(options.hub), cache, dataset.rejects, progress)
    category = dataset.videos.columns.categorical["category"]
    show(f"all {len(dataset.videos)} videos", content, category)
    lengths = [modality.lengths > 0 for name, modality in content.modalities.items() if name != GENERATION]
    whole = np.all(lengths, axis=0)
    show(f"the {whole.sum()} with every modality", content, replace(category, codes=np.where(whole, category.codes, 0)))


if __name__ == "__main__":
    main()
