"""`python -m serving.client`: one call, printed as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from serving.client import Client
from serving.remote.aio import DEFAULT_SERVER
from serving.remote.calls import Filters
from tfrec.errors import TfrecError

_DECIMALS = 4
_SHOWN = 8  # dimensions of an embedding in its table


def make_parser() -> argparse.ArgumentParser:
    """The command line: a subcommand for each call, each with the options of the connection."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.client", description="Asks a model server.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, arguments, call) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        arguments(command)
        _add_connection(command)
        command.set_defaults(call=call)
    return parser


def _add_connection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", default=DEFAULT_SERVER, metavar="URL", help="http://HOST:PORT or grpc://HOST:PORT (%(default)s)")
    add("--model", default="recommender", metavar="NAME", help="(default: %(default)s)")
    add(
        "--label",
        default="",
        metavar="NAME",
        help="of the version wanted, such as canary (default: the newest version)",
    )
    add("--timeout", type=float, default=5.0, metavar="SECONDS", help="(default: %(default)s)")
    add("--retries", type=int, default=4, metavar="N", help="while the server is unavailable (default: %(default)s)")
    add("--json", action="store_true", help="print JSON")


def _add_recommend(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("user_id", nargs="?", default="", help="may be unknown, or left out")
    add("--history", nargs="+", default=[], metavar="VIDEO", help="watched videos, oldest first")
    add("--history-timestamp", nargs="+", type=int, default=[], metavar="UNIX", help="when each was watched")
    add("--timestamp", type=int, default=0, metavar="UNIX", help="of the request (default: now)")
    add("--exclude", nargs="+", default=[], metavar="VIDEO", help="videos that may not be shown")
    _add_k(parser)
    add("--allow", nargs="+", default=[], metavar="VIDEO", help="the only videos that may be shown")
    add("--block", nargs="+", default=[], metavar="VIDEO", help="videos that may not be shown")
    add("--min-safety", type=float, metavar="0..1", help="least safety (default: as exported)")
    add("--diversity", type=float, metavar="0..1", help="(default: as exported)")


def _add_similar(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video_id")
    _add_k(parser)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text")
    _add_k(parser)


def _add_k(parser: argparse.ArgumentParser) -> None:
    text = "videos wanted; the model answers no more than it was exported for (default: %(default)s)"
    parser.add_argument("--k", type=int, default=10, metavar="N", help=text)


def _named_cell(text: str) -> tuple[str, str]:
    name, equals, cell = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"a cell is given as NAME=CELL. Received: {text!r}.")
    return name, cell


def _add_embed(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("video", nargs="?", type=Path, help="file; without it title and metadata alone are embedded")
    add("--title", default="", help="title; without the next three: title, tags and prompt, joined with '. '")
    add("--prompt", metavar="TEXT", help="that it was made from")
    add("--created-at", type=int, default=0, metavar="SECONDS", help="Unix time (default: now)")
    add(
        "--columns",
        nargs="+",
        type=_named_cell,
        default=None,
        metavar="NAME=CELL",
        help="other cells of its row of videos.csv, tags among them",
    )
    add("--generate-method", default="", metavar="NAME")
    add("--gen-params", nargs="+", type=float, default=[], metavar="NUMBER")
    add("--video-encoder", default="video_encoder", metavar="NAME", help="the model (default: %(default)s)")


def _recommend(client: Client, options: argparse.Namespace) -> Any:
    filters = Filters(tuple(options.allow), tuple(options.block), options.min_safety, diversity=options.diversity)
    return client.recommend(
        options.user_id,
        options.history,
        history_timestamp=options.history_timestamp,
        timestamp=options.timestamp,
        exclude=options.exclude,
        k=options.k,
        filters=None if filters == Filters() else filters,
    )


def _embed(client: Client, options: argparse.Namespace) -> Any:
    return client.embed_video(
        options.video,
        title=options.title,
        generate_method=options.generate_method,
        gen_params=options.gen_params,
        prompt=options.prompt,
        created_at=options.created_at,
        columns=options.columns and dict(options.columns),
    )


_Command = tuple[str, Callable[[argparse.ArgumentParser], object], Callable[[Client, argparse.Namespace], Any]]
_COMMANDS: dict[str, _Command] = {
    "recommend": ("a slate for a user", _add_recommend, _recommend),
    "similar": (
        "videos most alike to one of the catalogue",
        _add_similar,
        lambda client, options: client.similar(options.video_id, options.k),
    ),
    "search": (
        "videos for a free text",
        _add_search,
        lambda client, options: client.search(options.text, options.k),
    ),
    "embed": ("the embedding of a video file", _add_embed, _embed),
    "status": ("versions of the model", lambda parser: None, lambda client, options: client.status()),
    "health": ("exit code 0 if the model is served", lambda parser: None, lambda client, options: client.is_healthy()),
}


def show(result: Any) -> None:
    """Prints a list of results, or one, as a table."""
    from tfrec.console import console

    rows = result if isinstance(result, list) else [result]
    if not rows:
        console.print("nothing found")
        return
    from rich.table import Table

    table = Table()
    for field in fields(rows[0]):
        is_number = isinstance(getattr(rows[0], field.name), int | float)
        table.add_column(field.name.replace("_", " "), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(getattr(row, field.name)) for field in fields(row)))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.{_DECIMALS}f}"
    if isinstance(value, tuple):
        more = f" … ({len(value)})" if len(value) > _SHOWN else ""
        return " ".join(map(_cell, value[:_SHOWN])) + more
    return str(value)


def _print_json(result: Any) -> None:
    plain = [asdict(row) for row in result] if isinstance(result, list) else asdict(result)
    print(json.dumps(plain, indent=1, ensure_ascii=False))


def _run(options: argparse.Namespace) -> int:
    encoder = getattr(options, "video_encoder", "video_encoder")
    with Client(
        options.server,
        options.model,
        video_encoder=encoder,
        label=options.label,
        timeout=options.timeout,
        retries=options.retries,
    ) as client:
        result = options.call(client, options)
    if isinstance(result, bool):
        print(json.dumps({"healthy": result}) if options.json else "healthy" if result else "not healthy")
        return 0 if result else 1
    (_print_json if options.json else show)(result)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        code = _run(make_parser().parse_args(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the pipe, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TfrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
