"""Which models are served and by which workers, and which of them a request means.

Knows no Redis and no HTTP.
"""

from collections.abc import Collection, Mapping
from typing import Any, get_args

import msgspec

from api.errors import ApiError
from workers import contract

DEFAULT_MODEL = "default"

# The tasks of models that can serve a request.
ANY_TASK: tuple[contract.Task, ...] = get_args(contract.Task)
GENERATES: tuple[contract.Task, ...] = ("generate",)
EMBEDS: tuple[contract.Task, ...] = ("embed",)
SCORES: tuple[contract.Task, ...] = ("embed", "score")
_DOES: Mapping[contract.Task, str] = {
    "generate": "generates text and makes no embeddings or scores: ask for a model of those, which "
    "a worker serves with `--task embed` or `--task score`",
    "embed": "makes embeddings and no text: use /v1/embeddings, /v1/score or /v1/rerank, or ask "
    "for another model",
    "score": "scores pairs of texts and does nothing else: use /v1/score or /v1/rerank, or ask for "
    "another model",
}


class Directory(msgspec.Struct, frozen=True):
    """The fleet as Redis has it: model cards and the heartbeats of live workers."""

    cards: tuple[contract.ModelCard, ...] = ()
    heartbeats: tuple[contract.Heartbeat, ...] = ()

    def card(self, name: str) -> contract.ModelCard | None:
        """The card of exactly this model."""
        return next((card for card in self.cards if card.name == name), None)

    def resolve(
        self, name: str, *, strict: bool, tasks: Collection[contract.Task] = ANY_TASK
    ) -> contract.ModelCard:
        """The model that serves a request for `name`: unless `strict`, any name means the one that
        is served, or the one of these `tasks`.

        Raises ApiError `no_workers` while no model is known, `model_not_found` if the name fits
        none, `unsupported_model` if the model is for another task.
        """
        if not self.cards:
            raise ApiError("no_workers", "No worker serves a model yet; try again soon.")
        card = self.card(name)
        if card is None and not strict:
            card = self._only_one(tasks)
        if card is None:
            known = ", ".join(sorted(card.name for card in self.cards))
            raise ApiError(
                "model_not_found", f"The model '{name}' is not served; there is: {known}.", "model"
            )
        if card.task not in tasks:
            what = f"The model '{card.name}' {_DOES[card.task]}."
            raise ApiError("unsupported_model", what, "model")
        return card

    def _only_one(self, tasks: Collection[contract.Task]) -> contract.ModelCard | None:
        served = self._served()
        fitting = [card for card in served if card.task in tasks] or served
        return fitting[0] if len(fitting) == 1 else None

    def _served(self) -> list[contract.ModelCard]:
        """The models that have a live worker; without any, those that had one a moment ago."""
        alive = {beat.model for beat in self.heartbeats}
        return [card for card in self.cards if card.name in alive] or list(self.cards)

    def has_worker(self, name: str) -> bool:
        """True if a worker of this model lives."""
        return any(beat.model == name for beat in self.heartbeats)

    @property
    def is_ready(self) -> bool:
        """True if some worker takes jobs."""
        return any(not beat.is_draining for beat in self.heartbeats)

    def gauges(self) -> list[dict[str, Any]]:
        """Per model: its workers and the sums of their gauges."""
        return [self._gauges(card.name) for card in sorted(self.cards, key=lambda c: c.name)]

    def _gauges(self, model: str) -> dict[str, Any]:
        beats = [beat for beat in self.heartbeats if beat.model == model]
        names = ("running", "waiting", "kv_blocks_used", "kv_blocks_total", "num_preemptions")
        sums = {name: sum(getattr(beat, name) for beat in beats) for name in names}
        return {"id": model, "workers": len(beats), **sums}
