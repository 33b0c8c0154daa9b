"""Every kernel against float64 and its floor."""

from tests.bench.on_gpu import kernels_attention, kernels_products, kernels_rows
from tests.bench.on_gpu.setting import Case, Setting


def cases(setting: Setting) -> list[Case]:
    """Products first: they are nearly all of a step. What few use is last, should time run out."""
    parts = (kernels_products, kernels_attention, kernels_rows)
    found = [case for part in parts for case in part.cases(setting)]
    return [*found, *kernels_products.seldom_cases(setting)]
