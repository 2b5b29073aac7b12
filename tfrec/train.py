"""`python -m tfrec.train`: from a dataset folder to published models and a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse

from tfrec.config import TrainConfig
from tfrec.errors import TfrecError

if TYPE_CHECKING:
    from tfrec.data.schema import Dataset
    from tfrec.pipeline import Stages


def make_parser() -> jsonargparse.ArgumentParser:
    """The command line: every field of `TrainConfig`, and YAML files of the same."""
    summary = (TrainConfig.__doc__ or "").splitlines()[0]
    parser = jsonargparse.ArgumentParser(
        prog="python -m tfrec.train", description=summary, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file of options")
    parser.add_class_arguments(TrainConfig, fail_untyped=True, skip={"given"})
    return parser


def parse_arguments(arguments: Sequence[str]) -> TrainConfig:
    """Options of the command line as a checked configuration.

    `--data` stands for `--data.folder`, `--strategy` for `--distribution.strategy`, and `--resume` alone for `--resume true`.

    Raises:
        TfrecError: If an option does not exist, or a value cannot work.
    """
    expanded: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue="--"):
        name, equals, value = argument.partition("=")
        if name == "--strategy":
            argument = f"--distribution.strategy{equals}{value}"
        if argument == "--resume" and following.startswith("--"):
            argument = "--resume=true"
        expanded.append(f"--data.folder{equals}{value}" if name == "--data" else argument)
    parser = make_parser()
    try:
        options = parser.instantiate(parser.parse_args(expanded))
        given = frozenset(name for name, _ in parser.parse_args(expanded, defaults=False).items())
    except (jsonargparse.ArgumentError, UnicodeDecodeError) as error:
        raise TfrecError(" ".join(str(error).split())) from None
    names = set(TrainConfig.__dataclass_fields__) - {"given"}
    config = TrainConfig(given=given, **{name: options[name] for name in names})
    folder = config.data.folder
    if folder is not None and not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise TfrecError(f"The dataset folder {folder} {problem}. Give one with --data DIR.")
    return config


def train(config: TrainConfig) -> dict[str, Any]:
    """Runs every stage.

    Args:
        config: of the run.

    Returns:
        What metrics.json holds; nothing in a task that only helps to train.

    Raises:
        TfrecError: If the configuration or the data cannot be used.
    """
    from tfrec import console
    from tfrec.tf_config import is_server

    if is_server(config.distribution):
        from tfrec.parameter_server import serve

        serve()
        return {}
    with console.stage("Data and features"):
        stages = open_stages(config)
        console.show_dataset(stages.dataset.summary, stages.content)
    from tfrec.evaluation.report import write_metrics, write_report
    from tfrec.pipeline import NATIVE, STOCK

    with console.stage("Retrieval"):
        retrieval = stages.train_retrieval()
    if not stages.distribution.is_chief:
        with console.stage("Ranking"):
            stages.train_ranking(retrieval, stages.read_tables())
        return {}
    frozen = stages
    if config.features.fine_tuned:
        with console.stage("Fine-tuning"):
            stages, retrieval = stages.fine_tune(retrieval)
    with console.stage("Cold start"):
        cold_videos = stages.train_cold_start(retrieval)
        tables = stages.embed_videos(retrieval, cold_videos)
    with console.stage("Index"):
        kind = config.index.kind
        index, index_metrics = stages.build_index(retrieval, tables, "auto" if kind == "scann" else kind)
        native, index_metrics["scann"] = stages.build_index(retrieval, tables, "scann")
    with console.stage("Ranking"):
        ranking = stages.train_ranking(retrieval, tables)
    with console.stage("Evaluation"):
        measured = stages.evaluate(retrieval, ranking, tables)
    if config.evaluation.num_seeds > 1:
        with console.stage("Further seeds"):
            measured["seeds"] = measure_seeds(frozen, measured)
    with console.stage("Export"):
        recommender = stages.recommender(retrieval, ranking, index, cold_videos)
        models = {STOCK: recommender, NATIVE: stages.recommender(retrieval, ranking, native, cold_videos)}
        published = stages.publish(models, stages.video_encoder(retrieval, cold_videos, tables))
        slate = stages.evaluate_slates(recommender)
    metrics = {
        "dataset": stages.dataset_metrics(),
        "validation": stages.validate(retrieval),
        **measured,
        "slate": slate,
        "index": index_metrics,
        "published": published,
        "seconds": dict(console.stage_seconds),
        "examples_per_second": stages.examples_per_second(),
    }
    folder = stages.run.folder
    write_metrics(folder / "metrics.json", metrics)
    slates = stages.example_slates(recommender)
    write_report(
        folder / "report.html", metrics, metrics["dataset"], stages.curves(), slates, options_of(stages.config)
    )
    console.show_results(metrics, folder)
    return metrics


def measure_seeds(stages: Stages, measured: dict[str, Any]) -> dict[str, Any]:
    """Trains and measures the run again with the seeds after its own.

    Args:
        stages: of the run, before fine-tuning.
        measured: what it came to.

    Returns:
        Mean and deviation of the metrics, as `tfrec.evaluation.spread.spread` has them.
    """
    from tfrec.evaluation.spread import spread

    runs = [measured]
    for offset in range(1, stages.config.evaluation.num_seeds):
        other = stages.with_seed(stages.config.seed + offset)
        retrieval = other.train_retrieval()
        if other.config.features.fine_tuned:
            other, retrieval = other.fine_tune(retrieval)
        tables = other.embed_videos(retrieval, other.train_cold_start(retrieval))
        runs.append(other.evaluate_models(retrieval, other.train_ranking(retrieval, tables), tables))
    return spread(runs)


def check_for_workers(config: TrainConfig) -> None:
    """Refuses what several workers cannot do.

    Raises:
        TfrecError: If encoders are to be fine-tuned, or further seeds trained.
    """
    if config.features.fine_tuned:
        raise TfrecError(
            "Encoders are fine-tuned by one worker. Set `features.text.training` and `features.image.training` to frozen, or "
            "train on one machine, without TF_CONFIG."
        )
    if config.evaluation.num_seeds > 1:
        raise TfrecError(
            "Further seeds are trained by one worker. Set `evaluation.num_seeds` to 1, or train without TF_CONFIG."
        )


def read_dataset(config: TrainConfig, is_chief: bool) -> tuple[TrainConfig, Dataset]:
    """Reads the dataset, the demo where none is given. Nothing here needs TensorFlow, whose import takes seconds.

    Args:
        config: of the run.
        is_chief: whether this worker writes `rejected.csv`.

    Returns:
        The configuration with the folders of dataset and output, and the dataset.

    Raises:
        TfrecError: If the dataset cannot be used, or the output folder cannot be made.
    """
    from tfrec.console import progress_bar
    from tfrec.data.dataset import load_dataset

    folder = config.data.folder or config.data.cache / "demo"
    output = config.output or Path("runs") / folder.resolve().name
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TfrecError(
            f"The output folder {output} cannot be made: {error.strerror}. Give another --output."
        ) from None
    if config.data.folder is None:
        from tfrec.data.demo import ensure_demo

        with progress_bar("demo dataset", "videos") as progress:
            folder = ensure_demo(folder, config.demo, progress)
    config = replace(config, data=replace(config.data, folder=folder), output=output)
    return config, load_dataset(config.data, output if is_chief else None)


def open_stages(config: TrainConfig) -> Stages:
    """Reads the dataset, encodes its content, and opens the run's folder; a worker that is not the chief, after the chief."""
    from tfrec.tf_config import is_alone

    if alone := is_alone(config.distribution):
        config, dataset = read_dataset(config, is_chief=True)  # what cannot be used is refused at once
    import tensorflow as tf

    from tfrec.console import console, progress_bar
    from tfrec.data.dataset import REJECTED_FILE
    from tfrec.data.rejects import MEDIA
    from tfrec.distribution import open_distribution
    from tfrec.features.extract import extract_features
    from tfrec.pipeline import Stages, clear_training, fingerprint
    from tfrec.recipes import with_recipe
    from tfrec.run import RunFolder, SharedRunFolder, atomic_file

    if not tf.config.list_physical_devices("GPU"):
        # Products with sparse matrices, which histories and the graph are, have no deterministic kernel for GPUs.
        tf.config.experimental.enable_op_determinism()
    distribution = open_distribution(config.distribution)
    if not alone:
        if distribution.num_workers > 1 or distribution.is_remote:
            check_for_workers(config)
        if not distribution.is_chief:
            distribution.wait_for_chief()
        config, dataset = read_dataset(config, distribution.is_chief)
    output = config.output
    assert output is not None
    with progress_bar("features", "items") as progress:
        content = extract_features(
            dataset.videos, config.features, config.features.cache or output / "features", dataset.rejects, progress
        )
    config, chosen = with_recipe(config, dataset)
    console.print(f"  recipe {chosen}")
    if not distribution.is_chief:
        shared = SharedRunFolder(output, fingerprint(config, dataset, content))
        return Stages(config, shared, dataset, content, distribution=distribution)
    dataset.rejects.write(output / REJECTED_FILE)
    dataset.rejects.check(MEDIA, config.data.max_rejected)
    run = RunFolder(output, fingerprint(config, dataset, content), config.resume)
    if config.resume:
        console.print(f"  {run.progress}")
    if not run.resumed:
        clear_training(output)
    with atomic_file(output / "config.yaml") as file:
        file.write(as_yaml(config))
    distribution.wait_for_chief()
    return Stages(config, run, dataset, content, distribution=distribution)


def as_yaml(config: TrainConfig) -> bytes:
    """Every option, as `--config` takes them."""
    import yaml

    options = options_of(config)
    del options["resume"]  # or a run repeated from the file would not be one
    text: str = yaml.safe_dump(_as_plain(options), sort_keys=False, allow_unicode=True)
    return text.encode()


def options_of(config: TrainConfig) -> dict[str, Any]:
    """Every option by name, nested as on the command line."""
    options = asdict(config)
    del options["given"]
    return options


def _as_plain(value: Any) -> Any:
    """Options in YAML's own types."""
    if isinstance(value, dict):
        return {name: _as_plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        train(parse_arguments(sys.argv[1:] if arguments is None else arguments))
    except TfrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
