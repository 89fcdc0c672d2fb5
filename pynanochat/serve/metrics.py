"""What Prometheus may know of the server: GET /metrics. Nothing of what people write is in it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

_ENGINE = {
    "queued": "Requests that wait in the engine",
    "running": "Rows that the engine decodes",
    "held": "Requests held back because their reader does not read",
    "pages": "Pages of the KV cache",
    "pages_used": "Pages of the KV cache in use",
    "pages_cached": "Pages of the KV cache kept for prompts that begin alike",
    "prefix_hit_tokens": "Prompt tokens that were found in the cache",
    "prompt_tokens": "Prompt tokens of the engine's requests",
    "made_tokens": "Tokens that the engine made",
    "preemptions": "Requests set back because the cache was full",
    "restarts": "Times that the engine's process was started anew",
    "alive": "1 while the engine's process runs",
}
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self):
        self.registry = CollectorRegistry()
        counter = lambda *what: Counter(*what, registry=self.registry)  # noqa: E731
        self.requests = counter("pynanochat_requests", "HTTP requests answered", ["endpoint", "status"])
        self.rejected = counter("pynanochat_rejected", "Requests refused before the engine", ["reason"])
        self.prompt_tokens = counter("pynanochat_prompt_tokens", "Prompt tokens of admitted requests")
        self.made_tokens = counter("pynanochat_generated_tokens", "Tokens received from the engine")
        self.first_token = Histogram(
            "pynanochat_time_to_first_token_seconds", "Arrival to first token", buckets=_SECONDS, registry=self.registry
        )
        self.between_tokens = Histogram(
            "pynanochat_inter_token_seconds", "Between two tokens", buckets=_SECONDS, registry=self.registry
        )
        gauge = lambda name, what: Gauge(f"pynanochat_{name}", what, registry=self.registry)  # noqa: E731
        self.connections = gauge("connections", "Open connections")
        self.active = gauge("active_requests", "Requests between admission and their end")
        self.waiting = gauge("waiting_requests", "Requests without a first token yet")
        self._engine = {name: gauge(f"engine_{name}", what) for name, what in _ENGINE.items()}

    def render(self, accept: str, engine: dict) -> tuple[bytes, str]:
        """The text and its content type; `engine` is EngineProcess.stats()."""
        for name, gauge in self._engine.items():
            if name in engine:
                gauge.set(float(engine[name]))
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
