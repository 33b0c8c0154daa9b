"""GET /v1/models and /v1/models/{id}.

Knows the directory of models, not how a request picks one.
"""

from falcon.asgi import Request, Response

from api.broker import Broker
from api.directory import DEFAULT_MODEL
from api.errors import ApiError
from api.generation import send_json
from api.schema.response import Model, ModelList


class Models:
    """The models that workers serve."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def on_get(self, req: Request, resp: Response) -> None:
        """All of them."""
        directory = await self._broker.directory()
        models = [Model.of(card) for card in directory.cards]
        send_json(resp, ModelList(sorted(models, key=lambda model: model.id)))

    async def on_get_one(self, req: Request, resp: Response, name: str) -> None:
        """One of them; `name` may contain slashes, and `default` is the one there is."""
        directory = await self._broker.directory()
        card = directory.card(name)
        if card is None and name == DEFAULT_MODEL and len(directory.cards) == 1:
            card = directory.cards[0]
        if card is None:
            raise ApiError("model_not_found", f"The model '{name}' is not served.", "model")
        send_json(resp, Model.of(card))
