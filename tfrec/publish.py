"""`python -m tfrec.publish`: which versions of the published models serve; rollback, labels, retention."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tfrec.errors import TfrecError
from tfrec.export.rollout import Rollout, move_base_path, retain, roll_back, set_labels
from tfrec.export.versions import MANIFEST, published_models, versions, withdrawn_versions

_CHANGED = "recommender"
"""The model that actions change where none is named."""


def make_parser() -> argparse.ArgumentParser:
    """The command line; without an action the versions are listed."""
    parser = argparse.ArgumentParser(
        prog="python -m tfrec.publish",
        description="Lists the versions of the published models, after having changed which of one model serve.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--models", type=Path, required=True, metavar="DIR", help="folder of published models, such as runs/demo/models"
    )
    add(
        "--model",
        metavar="NAME",
        help=f"the one that is changed, and alone listed (default: {_CHANGED}, all are listed)",
    )
    add("--list", action="store_true", help="list the versions; what is done without an action")
    add("--rollback", action="store_true", help="withdraw the newest version: the one before it serves again")
    add("--label", type=_label, action="append", default=[], metavar="LABEL=VERSION",
        help="give a label, such as stable or canary, to a version; `LABEL=` removes it; may be repeated")  # fmt: skip
    add("--retain", type=int, metavar="N", help="remove versions but the newest N not rolled back, and those loaded")
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
    models, name = options.models, options.model or _CHANGED
    listed = published_models(models)
    if not listed:
        raise TfrecError(f"{models} holds no published models. Give --models DIR, such as runs/demo/models.")
    if options.model and options.model not in listed:
        raise TfrecError(f"{models} has no model {options.model}. It has: {', '.join(listed)}.")
    if options.rollback:
        print(f"{name}: version {roll_back(models, name)} serves again")
    if options.label:
        set_labels(models, name, dict(options.label))
    if options.retain is not None:
        retain(models, name, options.retain)
    if options.base_path is not None:
        move_base_path(models, options.base_path)
    show(models, [options.model] if options.model else listed)


def show(models: Path, names: Sequence[str]) -> None:
    """Prints the versions of some models, newest first."""
    from rich.table import Table

    from tfrec.console import console

    rollout = Rollout.read(models)
    table = Table(title=f"{models}", title_justify="left")
    for column in ("model", "version", "published", "state", "labels"):
        table.add_column(column, justify="right" if column == "version" else "left")
    for name in names:
        model, folder = rollout.of(name), models / name
        serves = "served" if name in rollout.served else "not in models.config"
        loaded = dict.fromkeys(model.loaded(folder), serves)
        hidden = dict.fromkeys((*withdrawn_versions(folder), *model.withdrawn), "withdrawn")
        for version in sorted({*versions(folder), *hidden}, reverse=True):
            labels = sorted(label for label, labelled in model.labels.items() if labelled == version)
            manifest = folder / str(version) / MANIFEST
            published = json.loads(manifest.read_text())["created"] if manifest.exists() else ""
            state = (loaded | hidden).get(version, "kept")
            table.add_row(name, str(version), published, state, ", ".join(labels))
        table.add_section()
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
