"""How much an error in each weight of a block matters. As llama.cpp has it for Q4_K and Q5_K."""

from torch import Tensor


def importance_of(weights: Tensor, imatrix: Tensor | None, group: int) -> Tensor:
    """[N, W]: more for large weights of a group; by the imatrix [N, W] if there is one."""
    if imatrix is not None:
        twice_variance = 2 * weights.square().mean(1, keepdim=True)
        return imatrix * (twice_variance + weights.square()).sqrt_()
    groups = weights.view(len(weights), -1, group)
    return (groups.square().mean(2, keepdim=True).sqrt_() + groups.abs()).view_as(weights)
