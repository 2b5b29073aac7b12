"""`python -m tfrec.publish`: which versions of the published models serve; rollback, labels, retention."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tfrec.errors import TfrecError
from tfrec.export.rollout import Rollout, move_base_path, retain, roll_back, set_labels
from tfrec.export.versions import MANIFEST, versions, withdrawn_versions


def make_parser() -> argparse.ArgumentParser:
    """The command line; without an action the versions are listed."""
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.publish",
        description="Lists the versions of a published model, after having changed which of them serve.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--models", type=Path, required=True, metavar="DIR", help="folder of published models, such as runs/demo/models"
    )
    add("--model", default="recommender", metavar="NAME", help="which of them (default: %(default)s)")
    add("--list", action="store_true", help="list the versions; what is done without an action")
    add("--rollback", action="store_true", help="withdraw the newest version: the one before it serves again")
    add("--label", type=_label, action="append", default=[], metavar="LABEL=VERSION",
        help="give a label, such as stable or canary, to a version; `LABEL=` removes it; may be repeated")  # fmt: skip
    add("--retain", type=int, metavar="N", help="remove all but the newest N versions and those with a label")
    add("--base-path", metavar="PATH", help="where servers see DIR; written to models.config (default: /models)")
    return parser


def _label(text: str) -> tuple[str, int | None]:
    label, equals, version = text.partition("=")
    if not equals or not (version.isdecimal() or not version):
        raise argparse.ArgumentTypeError(f"expected LABEL=VERSION, such as stable=3, not {text!r}")
    return label, int(version) if version else None


def run(options: argparse.Namespace) -> None:
    """Does what is asked, in the order of `--help`, and lists what came of it.

    Raises:
        TfrecError: If it cannot be done.
    """
    models, name = options.models, options.model
    if not (models / name).is_dir():
        raise TfrecError(f"{models / name} is no folder of a published model. Give --models DIR, and --model NAME.")
    if options.rollback:
        print(f"{name}: version {roll_back(models, name)} serves again")
    if options.label:
        set_labels(models, name, dict(options.label))
    if options.retain is not None:
        retain(models, name, options.retain)
    if options.base_path is not None:
        move_base_path(models, options.base_path)
    show(models, name)


def show(models: Path, name: str) -> None:
    """Prints the versions of a model, newest first."""
    from rich.table import Table

    from tfrec.console import console

    model, folder = Rollout.read(models).of(name), models / name
    hidden = dict.fromkeys((*withdrawn_versions(folder), *model.withdrawn), "withdrawn")
    loaded = dict.fromkeys(model.loaded(folder), "served")
    table = Table(title=f"{folder}", title_justify="left")
    for column in ("version", "published", "state", "labels"):
        table.add_column(column, justify="right" if column == "version" else "left")
    for version in sorted({*versions(folder), *hidden}, reverse=True):
        labels = sorted(label for label, labelled in model.labels.items() if labelled == version)
        manifest = folder / str(version) / MANIFEST
        published = json.loads(manifest.read_text())["created"] if manifest.exists() else ""
        table.add_row(str(version), published, ({**loaded, **hidden}).get(version, "kept"), ", ".join(labels))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        run(make_parser().parse_args(arguments))
    except TfrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
