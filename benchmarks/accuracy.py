"""The shipped configurations, trained as a user starts them: headline goals, baselines, cold start, ranking, seconds.

    python benchmarks/accuracy.py [--data ../shared/data] [--hub ../shared/hub] [--keep DIR] [demo tiktok ml-1m ...]

Prints the second table of README.md, a row per run as it ends, and then what the published tables have beside what these runs
reached on the validation part. TikTok is trained with five seeds (`--seeds`), of which mean and deviation are told. The last
column of the first table is the largest difference between recall and NDCG in metrics.json and those of what the published
model's signature `retrieve` answers to the same requests. With `--keep` the runs stay in a folder, and those that are there
already are printed without training again. Data sets that are not there are left out. The NCF protocol on MovieLens-1M comes
last, as `benchmarks/ncf_protocol.py` prints it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfrec.train import parse_arguments

ROOT = Path(__file__).parents[1]


class Goal(NamedTuple):
    """What a published table has, and the metrics that are held against it.

    Args:
        protocol: data and what is ranked.
        block: of metrics.json.
        metrics: names in the block.
        published: the best published values, where from, and of which part.
        goal: what is to be reached, on the validation part where nothing else is said.
    """

    protocol: str
    block: str
    metrics: tuple[str, str]
    published: str
    goal: str


GOALS = {
    "tiktok": [
        Goal(
            "TikTok, whole catalogue",
            "retrieval",
            ("recall@20", "ndcg@20"),
            "MMHCL .1139 / .0492, DiffMM .1129 / .0456 (test; with text features, which these data lack)",
            "at least .122 / .052",
        ),
        Goal(
            "TikTok, cold videos only",
            "cold_start",
            ("recall@20", "ndcg@20"),
            "content-kNN, visual, .252 (validation), .176 (test)",
            "at least .30",
        ),
    ],
    "ml-1m": [
        Goal(
            "MovieLens-1M, leave-one-out, whole catalogue",
            "retrieval",
            ("recall@10", "ndcg@10"),
            "gSASRec .3003 / .1726, BERT4Rec .2821 / .1516 (test, the item after)",
            "above gSASRec on test",
        )
    ],
}
RUNS = ("demo", "tiktok", "ml-1m", "ml-100k", "clips")
NCF = "ml-1m-ncf"
NCF_PUBLISHED = "NeuMF .726 / .445, matrix factorisation revisited .7294 / .4523 (test)"
SERVED_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
REQUESTS_PER_CALL = 256
MOST_DIFFERENCE = 1e-4
"""Of the metrics of published models from those of metrics.json, above which the benchmark fails."""
HEADS = (
    "run|part|recall@20|best baseline|oracle|cold recall@20|best baseline, cold|click AUC|of retrieval alone|ECE|"
    "slate recall@20|s|published model"
)


def command(name: str, data: Path, hub: Path, output: Path, seeds: int) -> list[str]:
    """The command line of a run; the clips are read by pretrained modules where there are any."""
    line = [sys.executable, "-m", "tfrec.train", f"--config=pipelines/configs/{name}.yaml", f"--output={output}"]
    if name != "demo":
        line.append(f"--data={data / name}")
    if name == "tiktok":
        line.append(f"--evaluation.num_seeds={seeds}")
    if name == "clips" and hub.is_dir():
        line += [
            f"--features.text.preprocessor={hub / 'minilm_en_uncased_preprocess'}",
            f"--features.text.encoder={hub / 'minilm_en_uncased_L-6_H-384_A-12'}",
            f"--features.image.encoder={hub / 'mobilenet_v2_100_224_feature_vector'}",
            "--features.image.image_size=224",
        ]
    return line


def served_difference(output: Path, expected: dict[str, float]) -> float:
    """Largest difference of recall and NDCG between metrics.json and the answers of the published `retrieve`.

    Args:
        output: folder of the run.
        expected: its metrics of retrieval.
    """
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (ops of pretrained text preprocessors)

    from tfrec.data.dataset import load_dataset
    from tfrec.evaluation import metrics
    from tfrec.evaluation.evaluate import final_part, make_task
    from tfrec.export.log_requests import task_requests, tensors
    from tfrec.export.versions import versions

    config = parse_arguments([f"--config={output / 'config.yaml'}"])
    dataset = load_dataset(config.data)
    task = make_task(dataset.interactions, final_part(dataset.interactions), config.evaluation.max_users, config.seed)
    folder = output / "models" / "recommender"
    model = tf.saved_model.load(str(folder / str(max(versions(folder)))))
    row_of = {video_id.encode(): row for row, video_id in enumerate(dataset.videos.ids)} | {b"": -1}
    found = []
    for start in range(0, len(task), REQUESTS_PER_CALL):
        positions = np.arange(start, min(start + REQUESTS_PER_CALL, len(task)))
        requests = task_requests(dataset, task, positions, config.export.max_k)
        answer = model.signatures["retrieve"](**tensors(requests))["video_id"].numpy()
        found.append(np.vectorize(row_of.__getitem__, otypes=[np.int32])(answer))
    hits, num_relevant = metrics.hits(np.concatenate(found), task.relevant), np.diff(task.relevant.indptr)
    return max(
        abs(getattr(metrics, name)(hits, num_relevant, int(k)).mean() - expected[f"{name}@{k}"])
        for name, k in (metric.split("@") for metric in SERVED_METRICS)
    )


def cell(block: dict[str, Any], metric: str) -> str:
    """A metric and its 95 % interval."""
    if block.get(metric) is None:
        return "–"
    low, high = block[f"{metric}_interval"]
    return f"{block[metric]:.3f} ({low:.3f}–{high:.3f})"


def best(metrics: dict[str, Any], *path: str, metric: str = "recall@20") -> tuple[str, dict[str, Any]]:
    """Name and figures of the best baseline in a slice."""
    found = {"–": {}}
    for name, block in metrics["baselines"].items():
        for key in path:
            block = block.get(key, {})
        if block.get(metric) is not None:
            found[name] = block
    name = max(found, key=lambda key: found[key].get(metric, -1.0))
    return name, found[name]


def row(name: str, metrics: dict[str, Any], difference: float) -> str:
    """One line of the table."""
    warm, cold = best(metrics), best(metrics, "cold_start")
    cells = [
        name,
        metrics["dataset"]["evaluated_on"],
        cell(metrics["retrieval"], "recall@20"),
        f"{warm[0]} {cell(warm[1], 'recall@20')}",
        cell(metrics.get("oracle", {}), "recall@20"),
        cell(metrics["cold_start"], "recall@20"),
        f"{cold[0]} {cell(cold[1], 'recall@20')}" if cold[1] else "–",
        cell(metrics["ranking"], "click_auc"),
        cell(metrics["ranking"], "retrieval_click_auc"),
        f"{metrics['ranking']['click_ece']:.3f}",
        f"{metrics['slate']['recall@20']:.3f}",
        f"{sum(metrics['seconds'].values()):.0f}",
        f"{difference:.1e}",
    ]
    return "| " + " | ".join(cells) + " |"


def goal_row(goal: Goal, metrics: dict[str, Any]) -> str:
    """A line of the table of goals: what is published, what is wanted, and what this run reached."""
    spread = metrics.get("seeds", {}).get(goal.block, {})

    def reached(metric: str) -> str:
        if metric in spread:
            figures = spread[metric]
            return f"{figures['mean']:.4f} ± {figures['deviation']:.4f} ({len(figures['values'])} seeds)"
        return f"{metrics[goal.block][metric]:.4f}"

    path = () if goal.block == "retrieval" else (goal.block,)
    name, block = best(metrics, *path, metric=goal.metrics[0])
    baseline = f"{name} " + " / ".join(f"{block[metric]:.4f}" for metric in goal.metrics if block)
    ours = " / ".join(reached(metric) for metric in goal.metrics)
    cells = [goal.protocol, " / ".join(goal.metrics), goal.published, goal.goal, baseline, ours]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Trains, and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help=f"of {', '.join((*RUNS, NCF))}; all of them by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--hub", type=Path, default=ROOT.parent / "shared" / "hub")
    parser.add_argument("--seeds", type=int, default=5, help="of TikTok")
    parser.add_argument("--keep", type=Path, help="folder of the runs; finished ones are not trained again")
    options = parser.parse_args()
    unknown = set(options.runs) - {*RUNS, NCF}
    if unknown:
        parser.error(f"unknown runs {', '.join(sorted(unknown))}; there are {', '.join((*RUNS, NCF))}")
    runs = options.runs or [*RUNS, NCF]
    measured, difference = {}, {}
    print("| " + " | ".join(HEADS.split("|")) + " |")
    print("|" + "---|" * len(HEADS.split("|")), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in runs:
            if name == NCF or (name != "demo" and not (options.data / name).is_dir()):
                continue
            output = (options.keep or Path(scratch)).resolve() / name
            if not (output / "metrics.json").exists():
                line = command(name, options.data.resolve(), options.hub.resolve(), output, options.seeds)
                subprocess.run([*line, "--resume"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            measured[name] = json.loads((output / "metrics.json").read_text())
            difference[name] = served_difference(output, measured[name]["retrieval"])
            print(row(name, measured[name], difference[name]), flush=True)
    print(
        "\n| Protocol | Metrics | Published best | Goal | Best baseline, this run | tfrec, this run |\n|" + "---|" * 6
    )
    for name, metrics in measured.items():
        for goal in GOALS.get(name, ()):
            print(goal_row(goal, metrics))
    if NCF in runs and (options.data / NCF).is_dir():
        print(f"\nMovieLens-1M, one of 100 (NCF protocol), validation; published: {NCF_PUBLISHED}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            line = [sys.executable, "benchmarks/ncf_protocol.py", f"--data={options.data.resolve() / NCF}"]
            subprocess.run([*line, f"--work={(options.keep or Path(scratch)).resolve() / NCF}"], cwd=ROOT, check=True)
    wrong = [name for name, value in difference.items() if value > MOST_DIFFERENCE]
    if wrong:
        raise SystemExit(f"Published models answer with other metrics than metrics.json tells: {', '.join(wrong)}.")


if __name__ == "__main__":
    main()
