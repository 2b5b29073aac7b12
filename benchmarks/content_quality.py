"""How well content features of real clips know their categories: leave-one-out nearest neighbours, per modality and fused.

    python benchmarks/content_quality.py --data DIR --hub DIR [--cache DIR]

`--data` is a dataset folder whose videos.csv has a column `category`; `--hub` holds a TF Hub BERT pair and an image feature
vector. Chance is what random neighbours reach. The fusion learns its weights without the categories
(`tfrec/evaluation/content.py`). A second table is of those videos that have every modality. `--corrections` adds what the fusion
comes to after usual corrections of each modality's cosines, what other ways to fuse that need no categories come to, and what the
best of a grid of weights does that are chosen with them: no weighted mean can do better.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import norm, rankdata

from tfrec.config import DataConfig, FeaturesConfig, ImageConfig, TextConfig
from tfrec.console import progress_bar
from tfrec.data.dataset import load_dataset
from tfrec.data.schema import CategoricalColumn
from tfrec.evaluation import content as evaluation
from tfrec.evaluation.content import GENERATION, Similarities, category_accuracy
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


def mutual_proximity(cosines: Similarities) -> Similarities:
    """How many others are farther from both, by independent normal distributions (Schnitzer et al., JMLR 2012)."""
    farther = norm.cdf(cosines, np.nanmean(cosines, 1)[:, None], np.nanstd(cosines, 1)[:, None])
    return (farther * farther.T).astype(np.float32)


def local_scaling(cosines: Similarities) -> Similarities:
    """Less the mean of either's ten nearest (CSLS: Conneau et al., ICLR 2018)."""
    filled = np.where(np.isfinite(cosines), cosines, -np.inf)
    nearest = np.sort(filled, axis=1)[:, -10:]
    level = np.nanmean(np.where(np.isfinite(nearest), nearest, np.nan), axis=1)
    return 2 * cosines - level[:, None] - level


def standardised_rows(cosines: Similarities) -> Similarities:
    """The mean of how far a cosine stands out among either's, in deviations."""
    rows = (cosines - np.nanmean(cosines, 1)[:, None]) / np.nanstd(cosines, 1)[:, None]
    return (rows + rows.T) / 2


def weighted(tables: Sequence[Similarities], weights: Sequence[float] | Similarities) -> Similarities:
    """The mean over the modalities that a pair has, by a weight for each, or for each of its videos."""
    known, values = np.isfinite(tables), np.nan_to_num(tables)
    by_video = np.asarray(weights, np.float32).reshape(len(tables), -1)
    by_pair = known * by_video[:, :, None] * by_video[:, None, :] ** (by_video.shape[1] > 1)
    return (values * by_pair).sum(axis=0) / by_pair.sum(axis=0)


def reliabilities(tables: Sequence[Similarities]) -> list[float]:
    return [evaluation._reliability(np.stack(tables), place) for place in range(len(tables))]


def one_factor(tables: Sequence[Similarities]) -> Similarities:
    """Weights of the factor scores of a one-factor model of the modalities' cosines (Thomson, 1951); of three modalities."""
    pairs = {}
    for one, two in itertools.combinations(range(3), 2):
        both = np.isfinite(tables[one]) & np.isfinite(tables[two])
        pairs[one, two] = max(np.corrcoef(tables[one][both], tables[two][both])[0, 1], 1e-3)
    (a, b, c) = pairs[0, 1], pairs[0, 2], pairs[1, 2]
    loadings = np.sqrt(np.minimum([a * b / c, a * c / b, b * c / a], 0.98))
    return weighted(tables, list(loadings / (1 - loadings**2)))


def reciprocal_ranks(tables: Sequence[Similarities]) -> Similarities:
    """Cormack et al., SIGIR 2009, with their 60, averaged over the modalities that a pair has."""
    ranks = np.stack([rankdata(-table, axis=1, nan_policy="omit") for table in tables])
    return weighted(list(1 / (60 + ranks)), reliabilities(tables))


def by_distinctness(tables: Sequence[Similarities]) -> Similarities:
    """Reliability times how far either video's nearest stands out (query-adaptive fusion: Zheng et al., CVPR 2015)."""
    rows = np.stack([(table - np.nanmean(table, 1)[:, None]) / np.nanstd(table, 1)[:, None] for table in tables])
    clear = np.nan_to_num(np.nanmax(rows, axis=2))
    return weighted(tables, clear * np.sqrt(reliabilities(tables))[:, None])


FUSIONS = {
    "equal weights": lambda tables: weighted(tables, [1] * len(tables)),
    "squared reliabilities": lambda tables: weighted(tables, np.square(reliabilities(tables)).tolist()),
    "one factor": one_factor,
    "reciprocal ranks": reciprocal_ranks,
    "by distinctness": by_distinctness,
}


def show_corrections(content: ContentFeatures, category: CategoricalColumn) -> None:
    rows = np.flatnonzero(category.codes > 0)
    cosines = [
        evaluation._similarities(modality, rows) for name, modality in content.modalities.items() if name != GENERATION
    ]
    for correct in (mutual_proximity, local_scaling, standardised_rows):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows without the modality
            fused = evaluation.fuse([correct(table) for table in cosines])
        accuracy = evaluation._accuracy(fused, category.codes[rows])["accuracy"]
        print(f"fused, {correct.__name__.replace('_', ' ')}: {accuracy:.3f}")
    tables = [evaluation._standardised(table) for table in cosines]
    grid = [weights for weights in itertools.product(range(11), repeat=len(tables)) if sum(weights) == 10]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        results = {name: fuse(tables) for name, fuse in FUSIONS.items()}
        best = max(
            evaluation._accuracy(weighted(tables, weights), category.codes[rows])["accuracy"] for weights in grid
        )
    for name, fused in results.items():
        print(f"fused, {name}: {evaluation._accuracy(fused, category.codes[rows])['accuracy']:.3f}")
    print(f"fused, weights of {len(grid)} that fit the categories best: {best:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hub", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="of the features; without it they are thrown away")
    parser.add_argument("--corrections", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, progress_bar("features", "items") as progress:
        dataset = load_dataset(DataConfig(options.data), Path(scratch))
        cache = options.cache or Path(scratch) / "features"
        content = extract_features(dataset.videos, features_config(options.hub), cache, dataset.rejects, progress)
    category = dataset.videos.columns.categorical["category"]
    lengths = [modality.lengths > 0 for name, modality in content.modalities.items() if name != GENERATION]
    complete = np.all(lengths, axis=0)
    parts = {
        f"all {len(dataset.videos)} videos": category,
        f"the {complete.sum()} with every modality": replace(category, codes=np.where(complete, category.codes, 0)),
    }
    for title, part in parts.items():
        show(title, content, part)
        if options.corrections:
            show_corrections(content, part)


if __name__ == "__main__":
    main()
