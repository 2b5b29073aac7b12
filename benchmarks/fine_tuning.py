"""What training the last layers of a pretrained text encoder with the towers is worth, on the clips.

    python benchmarks/fine_tuning.py [--data ../shared/data/clips] [--hub ../shared/hub] [--seeds 2] [--option=value ...]

Retrieval is trained over frozen features, then goes on twice from its best epoch, as the stage *Fine-tuning* does it: the towers
alone (the encoder learns at a rate of 1e-12), and with the encoder. Printed are recall@20 and NDCG@20 of the validation part at
the epoch with the best recall@20, as mean and range over the seeds, and seconds of training. Frames are frozen. Further options
are those of `python -m tfrec.train`, for every run; features are encoded once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from tfrec.pipeline import FINE_TUNING
from tfrec.train import open_stages, parse_arguments

HUB = {
    "features.text.preprocessor": "minilm_en_uncased_preprocess_core_ops",
    "features.text.encoder": "minilm_en_uncased_L-6_H-384_A-12",
    "features.image.encoder": "mobilenet_v2_100_224_feature_vector",
}
FIXED = ["--features.image.image_size=224", "--features.text.training=top_layers", "--retrieval.objective=recall@20"]
FROZEN = "frozen"
VARIANTS = {"towers trained on": ["--fine_tuning.encoder_learning_rate=1e-12"], "top_layers": []}


def run(options: list[str], seed: int) -> dict[str, tuple[float, float, float]]:
    """By stage: recall@20 and NDCG@20 of its best epoch, and seconds of training."""
    with tempfile.TemporaryDirectory() as folder:
        stages = open_stages(parse_arguments([f"--output={folder}", f"--seed={seed}", *options]))
        stages.fine_tune(stages.train_retrieval())
        curves = stages.curves()
    found = {}
    for stage in ("retrieval", FINE_TUNING):
        best = max(curves[stage], key=lambda record: record["recall@20"])
        found[stage] = (best["recall@20"], best["ndcg@20"], sum(record["seconds"] for record in curves[stage]))
    return found


def main() -> None:
    """Prints a row per variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/clips"))
    parser.add_argument("--hub", type=Path, default=Path("../shared/hub"))
    parser.add_argument("--seeds", type=int, default=2)
    arguments, options = parser.parse_known_args()
    handles = [f"--{option}={arguments.hub / name}" for option, name in HUB.items()]
    shared = [f"--data={arguments.data}", *handles, *FIXED, *options]
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (FROZEN, *VARIANTS)}
    with tempfile.TemporaryDirectory() as cache:
        for seed in range(1, arguments.seeds + 1):
            for name, changed in VARIANTS.items():
                stages = run([f"--features.cache={cache}", *shared, *changed], seed)
                rows[name].append(stages[FINE_TUNING])
            rows[FROZEN].append(stages["retrieval"])
            print(
                f"seed {seed}:",
                {name: [round(cell, 4) for cell in cells[-1]] for name, cells in rows.items()},
                flush=True,
            )
    print("| Encoder of texts | recall@20 | NDCG@20 | seconds |\n|---|---|---|---|")
    for name, cells in rows.items():
        columns = np.array(cells).T
        shown = [f"{column.mean():.4f} ({column.min():.4f} to {column.max():.4f})" for column in columns[:2]]
        print(f"| {name} | {' | '.join(shown)} | {columns[2].mean():.0f} |")


if __name__ == "__main__":
    main()
