"""The feed-forward block of a layer with experts: each token goes through a few of many MLPs.

Knows neither attention nor where the tokens come from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.layers.linear import Linear, empty_like, parameter
from engine.layers.mlp import gate_of
from engine.layers.packed_experts import JoinedExperts, PackedExperts, expert_parts, load_packed
from engine.weights.loader import Loader
from kernels import ops


class Experts(nn.Module):
    """A router and E gated MLPs; a token's result is the weighted sum of those it was sent to.

    The tokens are sorted by expert once, so that a projection of all experts is one product of
    rows in groups. The router's softmax is over all experts, in float32, before it chooses.
    Experts that a file has in blocks stay in blocks.
    """

    packed: PackedExperts | JoinedExperts | None = None

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Raises LoadError for an activation that has no kernel."""
        super().__init__()
        num_experts, hidden = config.num_experts, config.hidden_size
        inner = config.expert_intermediate_size
        self.num_experts = num_experts
        self.num_chosen = config.num_experts_per_token
        self.is_normalised = config.is_topk_normalised
        self.gate = gate_of(config)
        self.router = Linear(hidden, (num_experts,), dtype, device)
        self.gate_up_proj = parameter((num_experts, 2 * inner, hidden), dtype, device)
        self.down_proj = parameter((num_experts, hidden, inner), dtype, device)

    def load(
        self,
        loader: Loader,
        prefix: str,
        names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
    ) -> None:
        """Fill from the router `{prefix}.gate` and the experts below `{prefix}.experts`.

        Those are stacked tensors of all experts, as transformers 5 can write them, or three
        for each, called `names`.
        """
        self.router.load(loader, f"{prefix}.gate")
        weights = (self.gate_up_proj, self.down_proj)
        self.packed = load_packed(loader, f"{prefix}.experts", names, *weights)
        if self.packed is not None:
            self.gate_up_proj, self.down_proj = map(empty_like, weights)
        elif loader.has(f"{prefix}.experts.gate_up_proj"):
            loader.copy(f"{prefix}.experts.gate_up_proj", self.gate_up_proj)
            loader.copy(f"{prefix}.experts.down_proj", self.down_proj)
        else:
            for name, target in expert_parts(f"{prefix}.experts", names, *weights):
                loader.copy(name, target)

    @property
    def why_eager(self) -> str:
        """Why no graph can have this; empty where it can."""
        is_apart = isinstance(self.packed, PackedExperts)
        return "experts that are packed one by one wait for the router" if is_apart else ""

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] to [T, hidden]."""
        weights, chosen = self._route(x)
        experts, order = chosen.flatten().sort(stable=True)
        # Not bincount: it waits for the device to learn how long its result is.
        bounds = torch.arange(self.num_experts + 1, device=x.device)
        starts = torch.searchsorted(experts, bounds, out_int32=True)
        rows = x.index_select(0, order // self.num_chosen)
        outputs = self._outputs(rows, starts)
        by_token = torch.empty_like(outputs).index_copy_(0, order, outputs)
        parts = by_token.view(*chosen.shape, x.shape[1]).float()
        return torch.bmm(weights[:, None], parts)[:, 0].to(x.dtype)

    def _outputs(self, rows: Tensor, starts: Tensor) -> Tensor:
        """Each expert's MLP of the rows that are its own, [R, hidden]."""
        if self.packed is not None:
            return self.packed(rows, starts, self.gate)
        inner = self.gate(ops.grouped_linear(rows, self.gate_up_proj, starts))
        return ops.grouped_linear(inner, self.down_proj, starts)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights, float32, and the indices of each token's experts, both [T, k]."""
        shares = self.router(x).float().softmax(dim=-1)
        weights, chosen = shares.topk(self.num_chosen, dim=-1)
        if self.is_normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, chosen
