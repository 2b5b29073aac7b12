"""Trains on a Ray cluster: `python -m tfrec.train` on many workers, which Ray starts, and starts again when one is lost.

    python pipelines/train_ray.py --num-workers 4 [--num-gpus-per-worker 1] [--address auto] --data DIR --output DIR ...

All other options are those of `python -m tfrec.train`. Dataset and output must be on storage that all nodes see.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout need not be installed

from tfrec.errors import TfrecError
from tfrec.train import parse_arguments


def make_parser() -> argparse.ArgumentParser:
    """The options that are not those of training."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--address", metavar="HOST:PORT|auto", help="of the cluster (default: one of this machine's own, for this run)")
    add("--num-workers", type=int, default=2, metavar="N", help="that train together (default: %(default)s)")
    add("--num-cpus-per-worker", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add("--num-gpus-per-worker", type=int, default=0, metavar="N", help="(default: %(default)s)")
    add(
        "--max-losses",
        type=int,
        default=3,
        metavar="N",
        help="how often all workers are started again, from the last finished epoch, after one was lost "
        "(default: %(default)s)",
    )
    return parser


def train(arguments: list[str]) -> None:
    """Trains, and shows the results."""
    options, remaining = make_parser().parse_known_args(arguments)
    config = parse_arguments(remaining)  # what cannot work is refused here, before any worker starts
    import tfrec  # noqa: F401  (before TensorFlow)
    from tfrec import console
    from tfrec.cluster import connected
    from tfrec.ray_training import RayWorkers, train_on_ray

    workers = RayWorkers(
        options.num_workers, options.num_cpus_per_worker, options.num_gpus_per_worker, options.max_losses
    )
    with connected(options.address):
        output = train_on_ray(config, workers)
    console.show_results(json.loads((output / "metrics.json").read_text()), output)


if __name__ == "__main__":
    try:
        train(sys.argv[1:])
    except TfrecError as error:
        sys.exit(f"error: {error}")
