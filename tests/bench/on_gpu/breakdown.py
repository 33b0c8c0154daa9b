"""Where a step's time goes: its kernels by name, as torch's profiler saw them."""

from collections.abc import Iterator

from torch.profiler import ProfilerActivity, profile

from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Setting
from tests.bench.on_gpu.timer import Call

_REPEATS = 5
_MOST = 8  # kernels that are told, the slowest ones


def breakdown(part: str, label: str, call: Call, setting: Setting) -> Iterator[Row]:
    """The kernels that take most of a call, slowest first; on a CPU the operators."""
    call()
    setting.timer.wait()
    is_cuda = setting.device.type == "cuda"
    activity = ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        for _ in range(_REPEATS):
            call()
        setting.timer.wait()
    field = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    found = [(getattr(event, field), event) for event in seen.key_averages()]
    slowest = sorted(found, key=lambda pair: -pair[0])[:_MOST]
    for us, event in slowest:
        yield Row(
            part=part,
            name=f"{label}, of it `{event.key[:60]}`",
            state="measured",
            value=us / _REPEATS,
            unit="µs",
            note=f"{event.count / _REPEATS:.0f} launches",
        )
