"""Searches for better options of retrieval, on the validation part alone.

    python pipelines/tune.py --output DIR --trials 40 [--space FILE] [options of python -m tfrec.train]

Without `--space`, `pipelines/configs/space.yaml` is searched. `--retrieval.objective` names the metric. A search that was
stopped goes on where it was. It leaves `best.yaml` (for `python -m tfrec.train --config`), `trials.csv`, `search.png` and
`study.db`, an Optuna database.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout need not be installed

from tfrec.errors import TfrecError

SPACE = Path(__file__).parent / "configs" / "space.yaml"


def main() -> None:
    """Runs the search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the search")
    parser.add_argument("--trials", type=int, default=40, help="trials in all, those of earlier runs among them")
    parser.add_argument("--space", type=Path, default=SPACE, help="YAML: option to choices, or to low and high")
    options, arguments = parser.parse_known_args()
    if options.trials < 1:
        parser.error(f"--trials must be 1 or more. Received: {options.trials}.")

    from tfrec.console import console
    from tfrec.tuning import Search, read_space

    search = Search(arguments, read_space(options.space), options.output)
    best = search.run(options.trials)
    console.print(f"best: trial {best.number}, {best.value:.4f}; train it with --config {options.output / 'best.yaml'}")


if __name__ == "__main__":
    try:
        main()
    except TfrecError as error:
        sys.exit(f"error: {error}")
