"""Does the default hold on data it was not told about? Retrieval with no option but the data, against every baseline.

    python benchmarks/recipes.py --data ../shared/data/tiktok ../shared/data/clips [--seeds 1] [--share 1 ...]

For each dataset, prints the recipe that was chosen and why, then recall@20 and NDCG@20 of the final part for the model, for
the model without what stands beside the learned score (recency or popularity, linear model), and for each baseline: with 95
% intervals, or sample deviations of several seeds. Epochs and weights are chosen on the validation part. `--share .9` leaves
out the latest tenth of a log with times, and so repeats the protocol at an earlier time; of several times, the means over
all are told last. Further options are those of `python -m tfrec.train`, for every run. The head for cold videos is not
trained: the towers embed all videos.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from tfrec.evaluation.references import evaluate_baseline
from tfrec.models.retrieval import RetrievalModel
from tfrec.pipeline import Stages
from tfrec.train import open_stages, parse_arguments

FIGURES = ("recall@20", "ndcg@20")


def told(results: list[dict[str, Any]], figure: str) -> str:
    """A figure with its interval, or its mean and deviation over the seeds."""
    values = [result[figure] for result in results]
    if len(values) > 1:
        return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
    low, high = results[0][f"{figure}_interval"]
    return f"{values[0]:.4f} ({low:.3f} to {high:.3f})"


def row(data: str, name: str, results: list[dict[str, Any]]) -> None:
    """Prints one of the table."""
    print(f"| {data} | {name} | {' | '.join(told(results, figure) for figure in FIGURES)} |", flush=True)


def earlier(data: Path, share: float, folder: Path) -> Path:
    """A dataset folder, below `folder`, with the first share of the events of a CSV log."""
    shortened = folder / f"{data.name}, first {share:.0%}"
    shortened.mkdir()
    for path in data.resolve().iterdir():
        if path.name.startswith("interactions."):
            log = pd.read_csv(path, dtype=str)
            times = log.timestamp.astype(float)
            log[times < times.sort_values().iloc[round(share * len(log))]].to_csv(shortened / path.name, index=False)
        else:
            (shortened / path.name).symlink_to(path)
    return shortened


def evaluate(stages: Stages, retrieval: RetrievalModel) -> dict[str, Any]:
    """On the final part, the whole catalogue ranked."""
    return dict(stages.evaluate_retrieval(retrieval, stages.embed_videos(retrieval, None))["retrieval"])


Results = dict[str, list[dict[str, Any]]]
"""Those of each seed, by row."""


def compare(data: Path, seeds: int, options: list[str]) -> Results:
    """Prints the rows of a dataset."""
    whole: list[dict[str, Any]] = []
    towers: list[dict[str, Any]] = []
    for seed in range(1, seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            stages = open_stages(parse_arguments([f"--data={data}", f"--output={folder}", f"--seed={seed}", *options]))
            retrieval = stages.train_retrieval()
            whole.append(evaluate(stages, retrieval))
            retrieval.linear, retrieval.appeal.recency = None, 0.0
            towers.append(evaluate(stages, retrieval))
    task, config = stages.final_task(), stages.config
    name = f"{data.name}, {task.part.name.lower()} part"
    found = {"**default**": whole, "what was learned alone": towers}
    for baseline in config.evaluation.baselines:
        result = evaluate_baseline(
            baseline, stages.dataset.interactions, stages.content, task, config.evaluation, config.seed
        )
        if FIGURES[0] in result:
            found[baseline] = [result]
    for rival, results in found.items():
        row(name, rival, results)
    return found


def mean_rows(data: Path, times: list[Results]) -> None:
    """Prints the means over several times, of the rows that all of them have."""
    for name in [name for name in times[0] if all(name in found for found in times)]:
        means = [
            statistics.mean(statistics.mean(result[figure] for result in found[name]) for found in times)
            for figure in FIGURES
        ]
        print(
            f"| {data.name}, {len(times)} times | {name} | {' | '.join(f'{mean:.4f}' for mean in means)} |", flush=True
        )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--share", type=float, nargs="+", default=[1.0])
    arguments, options = parser.parse_known_args()
    for data in arguments.data:
        times = []
        for share in arguments.share:
            with tempfile.TemporaryDirectory() as folder:
                part = data if share == 1 else earlier(data, share, Path(folder))
                times.append(compare(part, arguments.seeds, options))
        if len(times) > 1:
            mean_rows(data, times)


if __name__ == "__main__":
    main()
