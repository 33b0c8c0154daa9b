"""A step's way to other processes where its tensors are on a (pretended) CUDA device."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.batch import Batch
from engine.parallel.steps import receive_batch, receive_order, send_batch
from kernels import interpreter
from tests.engine.pretend_cuda import pretend_cuda

CUDA = torch.device("cuda:0")


class Wire:
    """Both ends of a group: the first process sends all, then the other one listens."""

    device = CUDA

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.is_listening = False

    def _pass(self, message: Any) -> Any:
        if self.is_listening:
            return self.sent.pop(0)
        self.sent.append(message)
        return message

    def broadcast_ints(self, values: Sequence[int], _count: int) -> list[int]:
        return list(self._pass(values))

    def broadcast(self, tensor: Tensor) -> Tensor:
        assert tensor.device == CUDA
        passed: Tensor = self._pass(tensor)
        assert passed.shape == tensor.shape
        return passed


def there(values: list[Any]) -> Tensor:
    return torch.tensor(values).to(CUDA, non_blocking=True)


@pytest.mark.skipif(not interpreter.is_interpreting(), reason="there is a real one")
@pytest.mark.parametrize("has_sets", [True, False])
def test_a_batch_arrives_as_it_was_sent_and_nobody_waits_for_the_device(has_sets):
    with pretend_cuda() as cuda:
        batch = Batch(
            token_ids=there([5, 6, 7]),
            positions=there([0, 1, 4]),
            slots=there([8, 9, 20]),
            block_tables=there([[1, 0], [2, 3]]).int(),
            query_starts=there([0, 2, 3]).int(),
            context_lengths=there([2, 5]).int(),
            logits_indices=there([1, 2]),
            rope_sets=there([0, 0, 1]) if has_sets else None,
        )
        wire = Wire()
        group: Any = wire
        send_batch(group, batch)
        wire.is_listening = True
        made = receive_batch(group, receive_order(group)[1])
        assert not cuda.waits
        for name, sent, got in zip(Batch._fields, batch, made, strict=True):
            assert (got is None) == (sent is None)
            if sent is not None and got is not None:
                assert (got.dtype, got.device) == (sent.dtype, CUDA), name
                assert got.tolist() == sent.tolist(), name
