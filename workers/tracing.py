"""Whether traces are wanted, and by whom: OpenTelemetry's own variables decide. Knows no span.

Off unless configured; only then is the SDK, an extra, imported.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workers.environment import SettingError, variables

if TYPE_CHECKING:
    from workers.collector import Collector

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PATH = "/v1/traces"


def traces_url(endpoint: str, environ: Mapping[str, str]) -> str:
    """Where traces go, by the setting and what else `environ` says; empty: nowhere.

    Raises SettingError for a protocol that we do not speak. The variables are OpenTelemetry's:
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """
    is_off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_off or environ.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return ""
    url = environ.get(TRACES_VARIABLE) or (endpoint and endpoint.rstrip("/") + _PATH)
    for name in _PROTOCOLS if url else ():
        if environ.get(name, "http/protobuf") != "http/protobuf":
            raise SettingError(f"{name}={environ[name]}: traces can go out as http/protobuf only")
    return url


def check_tracing(endpoint: str, environ: Mapping[str, str]) -> str:
    """`traces_url`, if traces can go there: the SDK is installed, and it is a URL of HTTP.

    Raises SettingError.
    """
    url = traces_url(endpoint, environ)
    if url and not url.startswith(("http://", "https://")):
        raise SettingError(f"{VARIABLE}={endpoint or url}: an http:// or https:// URL is wanted")
    if url:
        _collector_class()
    return url


def open_collector(
    endpoint: str, service: str, environ: Mapping[str, str] | None = None
) -> "Collector | None":
    """Where the spans of this process go, if anywhere; `service` is its name there.

    Raises SettingError as `check_tracing` does, and for what the SDK does not take.
    """
    url = check_tracing(endpoint, variables() if environ is None else environ)
    if not url:
        return None
    try:
        return _collector_class().at(url, service)
    except ValueError as error:
        raise SettingError(f"an OTEL_… variable has a bad value: {error}") from error


def _collector_class() -> "type[Collector]":
    try:
        from workers.collector import Collector
    except ImportError as error:
        raise SettingError(
            f"{VARIABLE} is set, but traces need an extra that is not installed: "
            "pip install 'tramontane[otel]', or unset it"
        ) from error
    return Collector
