"""The results of tests/bench/cpu.py as a markdown table, with ratios and what they should be."""

from collections.abc import Iterable, Mapping, Sequence

PEERS = ("llama.cpp", "mistral.rs")
_HEAD = (
    "| model | figure | ours | llama.cpp | mistral.rs | ratio | target |\n"
    "|---|---|---|---|---|---|---|"
)
_LESS_IS_BETTER = ("load s", "memory")


def table(result: Mapping[str, float], models: Sequence[str], speeds: Iterable[str]) -> str:
    """A row per model and figure; `result` has them by `{model} {figure} {engine}`."""
    rows = [_HEAD]
    for model in models:
        for figure in (*speeds, *_LESS_IS_BETTER):
            found = [result.get(f"{model} {figure} {name}") for name in ("ours", *PEERS)]
            cells = ["" if value is None else _number(value) for value in found]
            ends = (_ratio(figure, found), _target(model, figure))
            rows.append(f"| {' | '.join((model, figure, *cells, *ends))} |")
    return "\n".join(rows)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(figure: str, found: Sequence[float | None]) -> str:
    ours, peers = found[0], [value for value in found[1:] if value is not None]
    if ours is None or not peers:
        return ""
    ratio = min(peers) / ours if figure in _LESS_IS_BETTER else ours / max(peers)
    return f"{ratio:.2f}"


def _target(model: str, figure: str) -> str:
    if figure in _LESS_IS_BETTER:
        return ""
    is_float, is_single = model.endswith("F16"), figure.startswith("decode 1 ")
    is_single = is_single or figure == "decode 1"
    if is_single:
        return "1.0" if is_float else "1.2"
    return "1.5" if is_float else "2.0"
