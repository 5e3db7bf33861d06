"""What watching costs: the same gateway without a line, with JSON logs, and with a tenth of its requests traced as well.

The numbers of `/metrics` are always counted; of the watched servers they are also read, as Prometheus does.
"""

import contextlib
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence

from tests.bench.servers import Server
from tests.watching.collector import collecting

SCRAPED_EVERY_S = 5.0
BOUND = 1.05


@contextlib.contextmanager
def ways() -> Iterator[Mapping[str, Mapping[str, str]]]:
    """The settings of each server by its name; the first is what the others are compared with."""
    with collecting() as collector:
        logs = {"GATEWAY_LOG_FORMAT": "json", "GATEWAY_LOG_REQUESTS": "true"}
        traces = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
        }
        yield {
            "unwatched": {"GATEWAY_LOG_REQUESTS": "false"},
            "logs": logs,
            "logs and 10 % traces": logs | traces,
        }
        assert collector.spans, "nothing was traced"


@contextlib.contextmanager
def scraped(servers: Sequence[Server]) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPED_EVERY_S):
            for server in servers:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
                    answer.read()

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
