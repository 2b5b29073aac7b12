"""The main job on the demo dataset and on real ones: recall against baselines, cold start, ranking, seconds.

    python benchmarks/main_job.py [--data ../shared/data] [--hub ../shared/hub] [demo tiktok ml-100k clips]

Each run is a process of its own, as a user starts it. Data sets that are not there are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUNS = ("demo", "tiktok", "ml-100k", "clips")


def command(name: str, data: Path, hub: Path, output: Path) -> list[str]:
    """The command line of a run; the clips are read by pretrained modules where there are any."""
    line = [sys.executable, "-m", "tfrec.train", f"--config=pipelines/configs/{name}.yaml", f"--output={output}"]
    if name != "demo":
        line.append(f"--data={data / name}")
    if name == "clips" and hub.is_dir():
        line += [
            f"--features.text.preprocessor={hub / 'minilm_en_uncased_preprocess'}",
            f"--features.text.encoder={hub / 'minilm_en_uncased_L-6_H-384_A-12'}",
            f"--features.image.encoder={hub / 'mobilenet_v2_100_224_feature_vector'}",
            "--features.image.image_size=224",
        ]
    return line


def cell(block: dict[str, Any], metric: str) -> str:
    """A metric and its 95 % interval."""
    if block.get(metric) is None:
        return "–"
    low, high = block[f"{metric}_interval"]
    return f"{block[metric]:.3f} ({low:.3f}–{high:.3f})"


def best(metrics: dict[str, Any], *path: str) -> str:
    """The best baseline of a slice, by recall@20."""
    found = {}
    for name, block in metrics["baselines"].items():
        for key in path:
            block = block.get(key, {})
        if block.get("recall@20") is not None:
            found[name] = block
    if not found:
        return "–"
    name = max(found, key=lambda key: found[key]["recall@20"])
    return f"{name} {cell(found[name], 'recall@20')}"


def row(name: str, metrics: dict[str, Any], seconds: float) -> str:
    """One line of the table."""
    oracle = cell(metrics.get("oracle", {}), "recall@20")
    cells = [
        name,
        metrics["dataset"]["evaluated_on"],
        cell(metrics["retrieval"], "recall@20"),
        best(metrics),
        oracle,
        cell(metrics["cold_start"], "recall@20"),
        best(metrics, "cold_start"),
        cell(metrics["ranking"], "click_auc"),
        cell(metrics["ranking"], "retrieval_click_auc"),
        f"{metrics['ranking']['click_ece']:.3f}",
        f"{metrics['slate']['recall@20']:.3f}",
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", nargs="*", help=f"of {', '.join(RUNS)}; all of them by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--hub", type=Path, default=ROOT.parent / "shared" / "hub")
    options = parser.parse_args()
    heads = (
        "run|part|recall@20|best baseline|oracle|cold recall@20|best baseline, cold|click AUC|of retrieval alone|ECE"
    )
    print("| " + " | ".join([*heads.split("|"), "slate recall@20", "s"]) + " |")
    print("|" + "---|" * 12, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.runs or RUNS:
            if name != "demo" and not (options.data / name).is_dir():
                continue
            output, start = Path(folder) / name, time.monotonic()
            subprocess.run(command(name, options.data, options.hub, output), cwd=ROOT, check=True, capture_output=True)
            print(row(name, json.loads((output / "metrics.json").read_text()), time.monotonic() - start), flush=True)


if __name__ == "__main__":
    main()
