"""Which GPU a launcher chooses its tiles for. Plain Python: imports no Triton."""

import torch

# What tiles are chosen for where kernels are interpreted: the newest that tables know.
INTERPRETED = 90


def capability_of(device: torch.device) -> int:
    """Ten times major plus minor compute capability."""
    if device.type != "cuda":
        return INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
