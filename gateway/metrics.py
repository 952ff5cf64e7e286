"""Every metric of the gateway, and the one collector that shows them.

prometheus-client renders; counting is done here with plain numbers, because its counters take a
lock and its histograms search linearly: together a tenth of a request's budget. All counts
are made on the event-loop thread. Labels are bounded: a model name counts under its own name only
when the catalog knows it, else as `other`; after LABEL_SETS_MAX sets of a family, as `other` too.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.ledger.entry import Entry

LABEL_SETS_MAX = 2000
OTHER = "other"

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
OVERHEAD_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)
COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)

TOKEN_CLASSES = ("input", "output", "cache_read", "cache_write", "reasoning")

Labels = tuple[str, ...]


class Counter:
    """Counts by label set; `child` gives the cell to add to."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._cells: dict[Labels, list[float]] = {}

    def child(self, *labels: str) -> list[float]:
        """The one-element list that holds the count of a label set."""
        cell = self._cells.get(labels)
        if cell is None:
            if len(self._cells) >= LABEL_SETS_MAX:
                labels = (OTHER,) * len(self.labels)
                return self._cells.setdefault(labels, [0])
            cell = self._cells[labels] = [0]
        return cell

    def add(self, amount: float, *labels: str) -> None:
        """Count."""
        self.child(*labels)[0] += amount

    def collect(self) -> Metric:
        """For the exposition."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, cell in self._cells.items():
            family.add_metric(labels, cell[0])
        return family


class Histogram:
    """A histogram without labels."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...]) -> None:
        self.name, self.text, self.bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self._sum += value

    def collect(self) -> Metric:
        """For the exposition."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, map(float, self.bounds)), "+Inf"), self._counts,
                                strict=True):  # fmt: skip
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(self.name, self.text, buckets=buckets, sum_value=self._sum)


class Metrics(Collector):
    """The metrics; one per process."""

    def __init__(self) -> None:
        self.requests = Counter(
            "gateway_requests", "Requests by how they were answered",
            ("endpoint", "provider", "model", "status"),
        )  # fmt: skip
        self.tokens = Counter("gateway_tokens", "Tokens metered", ("model", "class"))
        self.cost_nano_usd = 0
        self._cells: dict[tuple[str, str | None, str, int], tuple[list[float], ...]] = {}
        self.attempts = Counter(
            "gateway_upstream_attempts", "Tries at upstreams", ("provider", "outcome")
        )
        self.rejections = Counter(
            "gateway_rejections", "Requests refused by the gateway itself", ("code",)
        )
        self.request_seconds = Histogram(
            "gateway_request_seconds", "From the request's head to the end of its answer",
            REQUEST_SECONDS,
        )  # fmt: skip
        self.first_byte_seconds = Histogram(
            "gateway_first_byte_seconds", "From the request's head to the upstream's first byte",
            REQUEST_SECONDS,
        )  # fmt: skip
        self.overhead_seconds = Histogram(
            "gateway_overhead_seconds", "The gateway's own time in a request", OVERHEAD_SECONDS
        )
        self.commit_seconds = Histogram(
            "gateway_ledger_commit_seconds", "One commit of the ledger, fsync included",
            COMMIT_SECONDS,
        )  # fmt: skip
        self.in_flight: Callable[[], int] = lambda: 0
        self.queue_depth: Callable[[], int] = lambda: 0
        self.providers_up: Callable[[], Iterable[tuple[str, bool]]] = lambda: ()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def committed(self, seconds: float, rows: int) -> None:
        """The ledger committed (its `on_commit`)."""
        self.commit_seconds.observe(seconds)

    def settled(self, entry: Entry, model: str) -> None:
        """A request ended; `model` is a bounded name."""
        key = (entry.opening.endpoint, entry.provider, model, entry.http_status)
        cells = self._cells.get(key)
        if cells is None:
            cells = self._children(*key)
        cells[0][0] += 1
        self.request_seconds.observe(entry.total_ms / 1000)
        self.overhead_seconds.observe(entry.gateway_ms / 1000)
        if entry.first_byte_ms is not None:
            self.first_byte_seconds.observe(entry.first_byte_ms / 1000)
        usage = entry.usage
        if usage is not None:
            cells[1][0] += usage.input_tokens
            cells[2][0] += usage.output_tokens
            if usage.cache_read_input_tokens:
                cells[3][0] += usage.cache_read_input_tokens
            if usage.cache_creation_input_tokens:
                cells[4][0] += usage.cache_creation_input_tokens
            if usage.reasoning_tokens:
                cells[5][0] += usage.reasoning_tokens
            if entry.billed and entry.cost_nano_usd:
                self.cost_nano_usd += entry.cost_nano_usd

    def _children(
        self, endpoint: str, provider: str | None, model: str, status: int
    ) -> tuple[list[float], ...]:
        """The cells that a kind of request adds to, remembered: one look-up instead of three."""
        cells = (
            self.requests.child(endpoint, provider or "none", model, str(status)),
            *(self.tokens.child(model, kind) for kind in TOKEN_CLASSES),
        )
        if len(self._cells) < LABEL_SETS_MAX:
            self._cells[endpoint, provider, model, status] = cells
        return cells

    def collect(self) -> Iterator[Metric]:
        """Everything, for the registry."""
        for metric in (self.requests, self.tokens, self.attempts, self.rejections,
                       self.request_seconds, self.first_byte_seconds, self.overhead_seconds,
                       self.commit_seconds):  # fmt: skip
            yield metric.collect()
        cost = CounterMetricFamily("gateway_cost_usd", "US dollars charged to users")
        cost.add_metric((), self.cost_nano_usd / 1e9)
        yield cost
        yield GaugeMetricFamily(
            "gateway_in_flight", "Requests being served", value=self.in_flight()
        )
        yield GaugeMetricFamily(
            "gateway_ledger_queue_depth", "Rows waiting to be committed", value=self.queue_depth()
        )
        up = GaugeMetricFamily(
            "gateway_provider_up", "1 where a provider can be used", labels=("provider",)
        )
        for name, active in self.providers_up():
            up.add_metric((name,), 1 if active else 0)
        yield up

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self._registry)
