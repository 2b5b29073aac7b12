"""Counters and histograms under the names that TensorFlow Serving gives them, and the page that Prometheus reads.

The names begin with a colon and counters carry no `_total`, which client libraries for Prometheus refuse; hence own code.
"""

from __future__ import annotations

import bisect
import threading

_LABEL_SETS = 1000  # clients choose model names, so a page must not grow with what they ask for
OTHER = "(other)"  # the label of what is not counted by name


class Metric:
    """One named metric with a fixed list of labels.

    Args:
        name: The path-like name, for instance `/tensorflow/serving/request_count`.
        labels: The label names, in the order of the page.
    """

    kind = "counter"

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self._page_name = name.replace("/", ":")
        self._labels = labels
        self._cells: dict[tuple[str, ...], list[float]] = {}
        self._lock = threading.Lock()

    def _cell(self, labels: tuple[str, ...]) -> list[float]:
        if labels not in self._cells and len(self._cells) >= _LABEL_SETS:
            labels = (OTHER,) * len(labels)
        return self._cells.setdefault(labels, self._zero())

    def _zero(self) -> list[float]:
        return [0]

    def _label_text(self, values: tuple[str, ...]) -> str:
        pairs = zip(self._labels, values, strict=True)
        return ",".join(f'{name}="{_escape(value)}"' for name, value in pairs)

    def page(self) -> list[str]:
        """The lines of this metric."""
        with self._lock:
            cells = [(self._label_text(labels), list(cell)) for labels, cell in sorted(self._cells.items())]
        lines = [line for labels, cell in cells for line in self._lines(labels, cell)]
        return [f"# TYPE {self._page_name} {self.kind}", *lines] if lines else []

    def _lines(self, labels: str, cell: list[float]) -> list[str]:
        return [f"{self._page_name}{{{labels}}} {cell[0]:.0f}"]


class Counter(Metric):
    """A number that only grows."""

    def add(self, *labels: str, by: int = 1) -> None:
        """Counts `by` more under `labels`."""
        with self._lock:
            self._cell(labels)[0] += by

    def total(self) -> int:
        """The sum over all labels."""
        with self._lock:
            return int(sum(cell[0] for cell in self._cells.values()))


class Histogram(Metric):
    """A distribution over buckets whose limits grow by a factor; a cell is the counts, then the sum."""

    kind = "histogram"

    def __init__(self, name: str, *labels: str, start: float = 10, factor: float = 1.8, buckets: int = 33) -> None:
        super().__init__(name, *labels)
        self._limits = [start * factor**number for number in range(buckets)]

    def _zero(self) -> list[float]:
        return [0] * (len(self._limits) + 2)

    def add(self, *labels: str, value: float) -> None:
        """Counts one `value` under `labels`."""
        with self._lock:
            cell = self._cell(labels)
            cell[bisect.bisect_right(self._limits, value)] += 1
            cell[-1] += value

    def _lines(self, labels: str, cell: list[float]) -> list[str]:
        lines, count = [], 0
        for limit, here in zip([*map("{:g}".format, self._limits), "+Inf"], cell[:-1], strict=True):
            count += int(here)
            lines.append(f'{self._page_name}_bucket{{{labels},le="{limit}"}} {count}')
        return [
            *lines,
            f"{self._page_name}_sum{{{labels}}} {cell[-1]:g}",
            f"{self._page_name}_count{{{labels}}} {count}",
        ]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    """All metrics of a server."""

    def __init__(self) -> None:
        prefix = "/tensorflow/serving/"
        self.request_count = Counter(prefix + "request_count", "model_name", "status")
        self.request_latency = Histogram(prefix + "request_latency", "model_name", "API", "entrypoint")
        self.runtime_latency = Histogram(prefix + "runtime_latency", "model_name", "API", "runtime")
        self.example_count = Counter(prefix + "request_example_count_total", "model")
        self.example_counts = Histogram(prefix + "request_example_counts", "model", start=1, factor=2, buckets=20)
        self.warmup_latency = Histogram(prefix + "model_warmup_latency", "model_path", "status")
        self.batch_size = Histogram(prefix + "batching_session/processed_batch_size", "model_name", start=1, factor=2)
        self.load_attempts = Counter("/tensorflow/cc/saved_model/load_attempt_count", "model_path", "status")

    def _all(self) -> list[Metric]:
        return [metric for metric in vars(self).values() if isinstance(metric, Metric)]

    def page(self) -> str:
        """The page in Prometheus text form."""
        return "\n".join(line for metric in self._all() for line in metric.page()) + "\n"

    def total(self, name: str) -> int:
        """The sum of the counter `name`, 0 if there is none."""
        return sum(metric.total() for metric in self._all() if isinstance(metric, Counter) and metric.name == name)
