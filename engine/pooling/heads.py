"""What makes a vector of a text's states: pooled and scaled for embeddings, classified for scores.

In float32, whatever the model is computed in.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.encoders.batch import Packed
from engine.encoders.families import ClassifierNames
from engine.errors import LoadError
from engine.layers.linear import Linear
from engine.layers.norm import LayerNorm
from engine.pooling.pools import pool
from engine.pooling.recipe import DenseModule, Pooling, Recipe, Scale
from engine.weights.loader import Loader

SCALES: Mapping[Scale, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "softmax": lambda x: x.softmax(-1),
}


class Dense(nn.Module):
    """`activation(weight @ x + bias)`."""

    def __init__(self, module: DenseModule, device: torch.device) -> None:
        super().__init__()
        self.scale = SCALES[module.activation]
        rows = (module.out_features,)
        self.linear = Linear(module.in_features, rows, torch.float32, device, bias=module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[S, in] to [S, out]."""
        return self.scale(self.linear(x))


class EmbeddingHead(nn.Module):
    """Poolings side by side, dense layers, and length 1 where the recipe wants it."""

    def __init__(self, recipe: Recipe, hidden_size: int, dense: Sequence[Dense]) -> None:
        """`dense` are the layers of the recipe. Raises LoadError if one does not fit the other."""
        super().__init__()
        self.recipe = recipe
        self.dense = nn.ModuleList(dense)
        self.size = hidden_size * len(recipe.poolings)
        for module in recipe.dense:
            if module.in_features != self.size:
                raise LoadError(
                    f"The dense layer in {module.folder} takes {module.in_features} numbers, but "
                    f"is given {self.size}; the files do not belong together."
                )
            self.size = module.out_features

    def forward(self, hidden: Tensor, batch: Packed) -> Tensor:
        """[T, H] to [S, size]."""
        parts = [pool(hidden, batch, pooling) for pooling in self.recipe.poolings]
        vectors = torch.cat(parts, dim=-1)
        for dense in self.dense:
            vectors = dense(vectors)
        return F.normalize(vectors, dim=-1) if self.recipe.is_normalised else vectors


class ScoreHead(nn.Module):
    """A classifier on one pooled state: a dense layer if there is one, then the labels' scores."""

    def __init__(
        self,
        names: ClassifierNames,
        pooling: Pooling,
        activation: Callable[[Tensor], Tensor],
        scale: Scale,
    ) -> None:
        """`activation` is the dense layer's, `scale` the scores'. No weights until `load`."""
        super().__init__()
        self.names = names
        self.pooling = pooling
        self.activation = activation
        self.scale = SCALES[scale]
        self.size = 0
        self.dense: Linear | None = None
        self.norm: LayerNorm | None = None
        self.output: Linear | None = None

    def load(self, loader: Loader, hidden_size: int, eps: float, device: torch.device) -> None:
        """Make the layers that the checkpoint has, and fill them; `eps` is the norm's."""
        names = self.names
        if names.dense:
            self.dense = _linear(loader, names.dense, hidden_size, device)
        if names.norm:
            has_bias = loader.has(f"{names.norm}.bias")
            self.norm = LayerNorm(hidden_size, eps, torch.float32, device, has_bias=has_bias)
            self.norm.load(loader, names.norm)
        self.output = _linear(loader, names.output, hidden_size, device)
        self.size = len(self.output.weight)

    def forward(self, hidden: Tensor, batch: Packed) -> Tensor:
        """[T, H] to [S, size]."""
        assert self.output is not None, "loaded"
        x = pool(hidden, batch, self.pooling)
        if self.dense is not None:
            x = self.activation(self.dense(x))
        if self.norm is not None:
            x = self.norm(x)
        return self.scale(self.output(x))


class TokenScoreHead(nn.Module):
    """How much more likely "yes" is than "no" behind the last token, as log-odds, scaled.

    arXiv 2506.05176, 2.1; where there is no "no", the logit of "yes" (sentence-transformers).
    """

    size = 1

    direction: Tensor  # [H]

    def __init__(self, yes: Tensor, no: Tensor | None, scale: Scale) -> None:
        """`yes` and `no` are rows [H] of the language model's head."""
        super().__init__()
        self.scale = SCALES[scale]
        direction = yes.float() - (0.0 if no is None else no.float())
        self.register_buffer("direction", direction, persistent=False)

    def forward(self, hidden: Tensor, batch: Packed) -> Tensor:
        """[T, H] to [S, 1]."""
        return self.scale(pool(hidden, batch, "lasttoken") @ self.direction[:, None])


def _linear(loader: Loader, name: str, in_features: int, device: torch.device) -> Linear:
    """A layer with as many rows, and a bias, as the checkpoint has."""
    rows = loader.checkpoint.shape(f"{name}.weight")[0]
    has_bias = loader.has(f"{name}.bias")
    linear = Linear(in_features, (rows,), torch.float32, device, bias=has_bias)
    linear.load(loader, name)
    return linear
