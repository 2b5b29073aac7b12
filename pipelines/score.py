"""Scores all users, or those of a file, with a published model, into Parquet shards.

    python pipelines/score.py --models DIR/models --users FILE|all [--data DIR] --output DIR [--k 100] [--mode recommend]
    python pipelines/score.py --server HOST:PORT ...

The published SavedModel's own signature does the work, here or on a TensorFlow Serving that is asked over gRPC, so the rows are
what a server would answer. All rows come from one version: a server that changes it ends the run. A run that was killed goes
on with `--resume` and leaves, byte for byte, what an undisturbed run would have left.

`--users` is a `.csv`, `.csv.gz` or `.parquet` file with the columns

    user_id             required, but for `--mode similar` and `--mode embed --embed videos`
    video_id            required for those two and for `--mode rank` (the other half of a pair)
    history             video ids, oldest first: a JSON list, a Parquet list, or separated by `|`
    history_timestamp   Unix seconds of the same events
    timestamp           time of the request, Unix seconds or ISO 8601
    exclude             video ids that may not be shown, written as `history`

or `all`: every user (where `video_id` alone is required, every video) of the dataset in `--data`. A user without a `history`
has the one of the log in `--data`. The output folder holds `part-00000.parquet` and so on, `_rejected.csv` and, when all is done,
`_manifest.json` with counts and checksums. Columns of the shards, in the order of the input, then by rank:

    recommend   user_id, rank, video_id, score, click, finish, like, reason, model_version
    rank        user_id, video_id, score, click, finish, like, model_version
    similar     video_id, rank, similar_video_id, score, model_version
    embed       user_id or video_id, embedding, model_version
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout need not be installed

from tfrec.errors import TfrecError

_UNITS = {"recommend": "users", "rank": "pairs", "similar": "videos", "embed": "users"}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--models", type=Path, metavar="DIR", help="folder of published models, or of the versions of one")
    add("--server", metavar="[grpc://]HOST:PORT", help="a running TensorFlow Serving (gRPC) in place of --models")
    add("--deadline", type=float, default=60.0, metavar="SECONDS", help="for one request to it (default: %(default)g)")
    add("--in-flight", type=int, default=4, metavar="N", help="requests to it at once (default: %(default)s)")
    add("--model", default="recommender", metavar="NAME", help="which of them (default: %(default)s)")
    add("--version", type=int, metavar="N", help="of the model (default: the newest that was not rolled back)")
    add("--users", required=True, metavar="FILE|all", help="a file of users, or `all` of the dataset")
    add(
        "--columns",
        type=_renamed,
        nargs="+",
        default=[],
        metavar="NAME=NAME",
        help="what columns are called in the file of users, e.g. user_id=uid",
    )
    add("--data", type=Path, metavar="DIR", help="dataset folder, for histories and for `all`")
    add(
        "--max-rejected",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of bad rows in the file of users, or in a table of the dataset, above which nothing is scored (default: 0.01)",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the shards; made if missing")
    add("--mode", choices=_UNITS, default="recommend", help="(default: %(default)s)")
    add("--embed", choices=("users", "videos"), default="users", help="for `--mode embed` (default: %(default)s)")
    add("--k", type=int, default=100, metavar="N", help="rows per user or video (default: %(default)s)")
    add(
        "--batch-size",
        type=_batch_size,
        default=256,
        metavar="N|auto",
        help="records asked about at once; `auto` measures which is fastest. Two runs agree to the last bit if it is the "
        "same (default: %(default)s)",
    )
    add("--shard-size", type=int, default=8192, metavar="N", help="records per shard (default: %(default)s)")
    add(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this process, or a Ray cluster (default: %(default)s)",
    )
    add("--address", metavar="HOST:PORT|auto", help="of the cluster (default: one of this machine's own, for this run)")
    add("--num-workers", type=int, metavar="N", help="on the cluster (default: as many as have room)")
    add("--num-gpus-per-worker", type=float, default=0.0, metavar="N", help="may be a part (default: %(default)g)")
    add("--resume", action="store_true", help="go on with a run that was stopped")
    return parser


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _renamed(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise argparse.ArgumentTypeError(f"expected the name wanted, =, and the name in the file; not {text!r}")
    return name, column


def score(options: argparse.Namespace) -> None:
    """Scores, and says what was done."""
    import tfrec  # noqa: F401  (before TensorFlow)
    from tfrec.console import console, progress_bar
    from tfrec.scoring.job import ScoreJob, run

    job = ScoreJob(**{**vars(options), "columns": dict(options.columns)})
    unit = "videos" if job.asked.keys == ("video_id",) else _UNITS[job.mode]
    with progress_bar("Scoring", unit) as progress:
        summary = run(job, progress)
    manifest = summary.manifest
    shards = len(manifest["shards"])
    console.print(
        f"{manifest['records']:,} {unit}, {manifest['rows']:,} rows in {shards:,} shard{'s' * (shards != 1)} by version "
        f"{manifest['job']['version']} of {job.model}, in batches of {manifest['job']['batch_size']}"
    )
    for file, reasons in manifest["rejected"].items():
        for reason, count in reasons.items():
            console.print(f"  [yellow]rejected {count:,} of {file}: {reason}[/yellow]")
    rate = summary.scored / max(summary.seconds, 1e-9)
    if before := manifest["records"] - summary.scored:
        console.print(f"resumed: {before:,} {unit} had been scored before")
    console.print(
        f"scored {summary.scored:,} {unit} in {summary.seconds:.1f} s ({rate:,.0f} {unit}/s); output: {job.output}"
    )


if __name__ == "__main__":
    try:
        score(make_parser().parse_args())
    except TfrecError as error:
        sys.exit(f"error: {error}")
