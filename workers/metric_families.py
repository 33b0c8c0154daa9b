"""The workers' gauges and counts as Prometheus metrics, under vLLM's names and mistral.rs'.

Knows no HTTP and no Redis: from heartbeats, the worker's own or the fleet's.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from workers.contract import Heartbeat
from workers.counts import Counts, Histogram

LABELS = ("model_name", "engine")


class _Value(NamedTuple):
    """A gauge or counter: its names, and where it is in a heartbeat."""

    names: tuple[str, ...]
    help: str
    value: Callable[[Heartbeat], float]
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily] = CounterMetricFamily


class _Times(NamedTuple):
    names: tuple[str, ...]
    help: str
    histogram: Callable[[Counts], Histogram]


_VALUES = (
    _Value(
        ("vllm:num_requests_running", "mistralrs_sequences_running"),
        "Sequences that run in the engine.",
        lambda beat: beat.running,
        GaugeMetricFamily,
    ),
    _Value(
        ("vllm:num_requests_waiting", "mistralrs_sequences_waiting"),
        "Sequences that wait in the engine.",
        lambda beat: beat.waiting,
        GaugeMetricFamily,
    ),
    _Value(
        ("vllm:kv_cache_usage_perc",),
        "Used part of the KV cache, 0 to 1.",
        lambda beat: beat.kv_blocks_used / max(beat.kv_blocks_total, 1),
        GaugeMetricFamily,
    ),
    _Value(
        ("mistralrs_kv_cache_blocks_used",),
        "Blocks of the KV cache in use.",
        lambda beat: beat.kv_blocks_used,
        GaugeMetricFamily,
    ),
    _Value(
        ("mistralrs_kv_cache_blocks_total",),
        "Blocks of the KV cache.",
        lambda beat: beat.kv_blocks_total,
        GaugeMetricFamily,
    ),
    _Value(
        ("vllm:num_preemptions", "mistralrs_paged_preemptions"),
        "Sequences that gave their blocks back and began anew.",
        lambda beat: beat.num_preemptions,
    ),
    _Value(
        ("vllm:prefix_cache_queries", "mistralrs_prefix_cache_lookups"),
        "Prompt tokens looked up in the prefix cache.",
        lambda beat: beat.prefix_queries,
    ),
    _Value(
        ("vllm:prefix_cache_hits", "mistralrs_prefix_cache_hits"),
        "Prompt tokens found in the prefix cache.",
        lambda beat: beat.prefix_hits,
    ),
    _Value(
        ("vllm:prompt_tokens",),
        "Prompt tokens of the requests that have had their first token.",
        lambda beat: _counts(beat).prompt_tokens,
    ),
    _Value(
        ("vllm:generation_tokens",),
        "Tokens made.",
        lambda beat: _counts(beat).generation_tokens,
    ),
    _Value(
        ("mistralrs_tokens_processed",),
        "Prompt tokens and tokens made.",
        lambda beat: _counts(beat).prompt_tokens + _counts(beat).generation_tokens,
    ),
)
_FINISHED = ("vllm:request_success", "finished_reason"), ("mistralrs_sequences_completed", "reason")
_TIMES = (
    _Times(
        ("vllm:time_to_first_token_seconds", "mistralrs_time_to_first_token_seconds"),
        "From the queue to the first token.",
        lambda counts: counts.first_token,
    ),
    _Times(
        ("vllm:inter_token_latency_seconds", "mistralrs_inter_token_latency_seconds"),
        "From a token to the next one.",
        lambda counts: counts.between_tokens,
    ),
    _Times(
        ("vllm:e2e_request_latency_seconds",),
        "From the queue to the end of the answer.",
        lambda counts: counts.request,
    ),
    _Times(
        ("vllm:request_queue_time_seconds",),
        "From the queue to the worker's start with it.",
        lambda counts: counts.queue,
    ),
    _Times(
        ("vllm:request_prefill_time_seconds",),
        "From the worker's start to the first token, a wait in the engine included.",
        lambda counts: counts.prefill,
    ),
    _Times(
        ("vllm:request_decode_time_seconds",),
        "From the first token to the end.",
        lambda counts: counts.decode,
    ),
    _Times(
        ("vllm:request_inference_time_seconds",),
        "From the worker's start to the end.",
        lambda counts: counts.inference,
    ),
    _Times(
        ("vllm:request_prompt_tokens",),
        "Prompt tokens of a finished request.",
        lambda counts: counts.prompt_sizes,
    ),
    _Times(
        ("vllm:request_generation_tokens",),
        "Tokens of a finished answer.",
        lambda counts: counts.answer_sizes,
    ),
)


class _Families(Collector):
    """These, for a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def text_of(families: Iterable[Metric]) -> bytes:
    """The text that a Prometheus server reads, format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(families)))
    return generate_latest(registry)


def families_of(beats: Sequence[Heartbeat]) -> Iterable[Metric]:
    """Each metric with a sample of every worker."""
    for value in _VALUES:
        for name in value.names:
            family = value.kind(name, value.help, labels=LABELS)
            for beat in beats:
                family.add_metric(_labels(beat), value.value(beat))
            yield family
    for name, label in _FINISHED:
        yield _finished(beats, name, label)
    for times in _TIMES:
        for name in times.names:
            yield _times(beats, name, times)


def _finished(beats: Sequence[Heartbeat], name: str, label: str) -> Metric:
    what = "Choices that ended, by how."
    family = CounterMetricFamily(name, what, labels=(*LABELS, label))
    for beat in beats:
        for reason, count in sorted(_counts(beat).finished.items()):
            family.add_metric([*_labels(beat), reason], count)
    return family


def _times(beats: Sequence[Heartbeat], name: str, times: _Times) -> Metric:
    family = HistogramMetricFamily(name, times.help, labels=LABELS)
    for beat in beats:
        histogram = times.histogram(_counts(beat))
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(_labels(beat), buckets, histogram.total)
    return family


def _labels(beat: Heartbeat) -> list[str]:
    return [beat.model, beat.worker]


def _counts(beat: Heartbeat) -> Counts:
    return beat.counts or Counts()
