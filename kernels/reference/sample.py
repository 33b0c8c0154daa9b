"""The next id of each row of logits, as engine/sampling.py defines it: the truth for its kernel."""

import torch
from torch import Tensor

from kernels.reference.philox import uniform

GREEDY_BELOW = 1e-7


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    choices: Tensor,
    positions: Tensor,
) -> Tensor:
    """The largest logit, or a draw from what the filters leave of the softmax, a row at a time.

    logits: [R, V] float32; temperatures, top_p, min_p: [R] float32; top_k, seeds, choices,
    positions: [R] int64. Returns [R] int64. A temperature below 1e-7 is greedy: the lowest id among
    the largest. Else the logits are divided by it, and a token stays if fewer than `top_k` are
    above it (0 or less: any number), if those above it have less than `top_p` of the mass that
    `top_k` left, and if it is at least `min_p` times as probable as the best. Tokens that tie stay
    together, and the best always does. The draw is Gumbel-max (Maddison et al., NeurIPS 2014): the
    best sum of logit and `-log(-log(u))` for u of `uniform(seeds, choices, positions, V)`, so it
    depends on no other row.
    """
    greedy = logits.argmax(-1)
    is_greedy = temperatures < GREEDY_BELOW
    scaled = logits / torch.where(is_greedy, 1.0, temperatures)[:, None]
    kept = _keep(scaled, top_k, top_p, min_p)
    noise = -(-uniform(seeds, choices, positions, logits.shape[1]).log()).log()
    drawn = torch.where(kept, scaled + noise, -torch.inf).argmax(-1)
    return torch.where(is_greedy, greedy, drawn)


def _keep(scaled: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Which tokens stay. An order is used where the kernel has none."""
    ordered = scaled.double().sort(dim=-1, descending=True).values
    size = scaled.shape[1]
    last = torch.where(top_k > 0, top_k, size).clamp(max=size) - 1
    kept = scaled >= ordered.gather(-1, last[:, None])
    mass = torch.where(ordered >= ordered.gather(-1, last[:, None]), ordered, -torch.inf).softmax(
        -1
    )
    # The mass above a token is that before the first token of its value.
    first = torch.searchsorted(-ordered, -scaled.double())
    before = (mass.cumsum(-1) - mass).gather(-1, first.clamp(max=size - 1))
    kept &= before < top_p[:, None]
    best = scaled.amax(-1, keepdim=True)
    return kept & (scaled >= best + min_p.log()[:, None]) | (scaled == best)
