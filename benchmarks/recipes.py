"""Does the default hold on data it was not told about? Retrieval with no option but the data, against every baseline.

    python benchmarks/recipes.py --data ../shared/data/tiktok ../shared/data/clips [--seeds 1] [--option=value ...]

For each dataset, prints the recipe that was chosen and why, then recall@20 and NDCG@20 of the final part for the model (mean and
sample deviation over the seeds, epochs chosen on the validation part) and for each baseline. Further options are those of
`python -m tfrec.train`, for every run. The head for cold videos is not trained: the towers embed all videos.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from tfrec.evaluation.references import evaluate_baseline
from tfrec.train import open_stages, parse_arguments

FIGURES = ("recall@20", "ndcg@20")


def mean_and_deviation(values: list[float]) -> str:
    """Of a figure over the seeds."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def compare(data: Path, seeds: int, options: list[str]) -> None:
    """Prints the rows of a dataset."""
    measured = []
    for seed in range(1, seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            stages = open_stages(parse_arguments([f"--data={data}", f"--output={folder}", f"--seed={seed}", *options]))
            retrieval = stages.train_retrieval()
            measured.append(stages.evaluate_retrieval(retrieval, stages.embed_videos(retrieval, None))["retrieval"])
            validation = max(record["recall@20"] for record in stages.curves()["retrieval"])
            print(f"{data.name}, seed {seed}: recall@20 on the validation part {validation:.4f}", flush=True)
    figures = [mean_and_deviation([result[name] for result in measured]) for name in FIGURES]
    print(f"| {data.name}, {measured[0]['evaluated_on']} part | **{stages.config.recipe}** | {' | '.join(figures)} |")
    task, config = stages.final_task(), stages.config
    for name in config.evaluation.baselines:
        result = evaluate_baseline(
            name, stages.dataset.interactions, stages.content, task, config.evaluation, config.seed
        )
        if FIGURES[0] in result:
            print(f"| {data.name} | {name} | {' | '.join(f'{result[figure]:.4f}' for figure in FIGURES)} |", flush=True)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    arguments, options = parser.parse_known_args()
    for data in arguments.data:
        compare(data, arguments.seeds, options)


if __name__ == "__main__":
    main()
