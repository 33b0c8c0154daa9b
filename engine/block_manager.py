"""Who owns which KV block, and which freed blocks can still be hit.

Knows block numbers and hashes, no tensors.

Full blocks are named by a chain of 128-bit digests (parent digest + token ids; the root is the salt
and the rope set), so equal digests mean equal prefixes and no token ids need to be kept to compare.
A freed block keeps its name until it is reused; the free list is in order of release, so the least
recently used name goes first.
"""

from collections import OrderedDict
from hashlib import blake2b

from engine.sequence import Sequence

_DIGEST_BYTES = 16


class BlockManager:
    """Hands out `num_blocks` blocks of `block_size` tokens."""

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_cache = enable_prefix_cache
        self.num_frees = 0  # grows when blocks come back: what did not fit may fit now
        self._references = [0] * num_blocks
        self._names: list[bytes | None] = [None] * num_blocks
        self._named: dict[bytes, int] = {}
        # Ordered as by a linked list: O(1) at both ends and inside.
        self._free: OrderedDict[int, None] = OrderedDict()
        # Blocks from here on were never used; a list of them would cost memory for nothing.
        self._num_touched = 0

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns, hittable ones included."""
        return len(self._free) + self.num_blocks - self._num_touched

    @property
    def num_used(self) -> int:
        """Blocks that some sequence owns."""
        return self._num_touched - len(self._free)

    def admit(self, sequence: Sequence, num_spare: int) -> bool:
        """Give a sequence without blocks room for all its tokens, cached blocks first.

        `num_computed` says how much of it is there already. False, and nothing changed, if fewer
        than `num_spare` blocks would remain.
        """
        cached = self._match(sequence)
        num_new = self._num_blocks_for(len(sequence)) - len(cached)
        num_idle = sum(self._references[block] == 0 for block in cached)
        if num_new + num_idle + num_spare > self.num_free:
            return False
        for block in cached:
            self._share(block)
        sequence.blocks = cached
        sequence.num_hittable = len(cached)
        sequence.num_computed = len(cached) * self.block_size
        for _ in range(num_new):
            cached.append(self._take())
        sequence.capacity = len(cached) * self.block_size
        return True

    def extend(self, sequence: Sequence) -> bool:
        """Give a sequence one more block. False if none is free."""
        if not self.num_free:
            return False
        sequence.blocks.append(self._take())
        sequence.capacity += self.block_size
        return True

    def commit(self, sequence: Sequence) -> None:
        """Make the full blocks whose KV is written hittable.

        Of two equal blocks, the first keeps the name.
        """
        num_full = sequence.num_computed // self.block_size
        if self.enable_prefix_cache:
            self._extend_hashes(sequence, num_full)
            for index in range(sequence.num_hittable, num_full):
                self._name(sequence.blocks[index], sequence.hashes[index])
        sequence.num_hittable = num_full

    def free(self, sequence: Sequence) -> None:
        """Take a sequence's blocks back.

        Its tail is reused before its head, nameless blocks before all others.
        """
        for block in reversed(sequence.blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if self._names[block] is None:
                    self._free.move_to_end(block, last=False)
        sequence.blocks = []
        sequence.capacity = sequence.num_computed = sequence.num_hittable = 0
        self.num_frees += 1

    def forget_names(self) -> None:
        """Let no block be hit any more: what is in them is of other weights."""
        self._names = [None] * self.num_blocks
        self._named.clear()

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _match(self, sequence: Sequence) -> list[int]:
        """The longest cached prefix, short of the last token: a step has to run to give logits."""
        blocks: list[int] = []
        if not self.enable_prefix_cache or sequence.wants_prompt_logprobs:
            return blocks
        num_full = (len(sequence) - 1) // self.block_size
        self._extend_hashes(sequence, num_full)
        for name in sequence.hashes[:num_full]:
            block = self._named.get(name)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _extend_hashes(self, sequence: Sequence, num_full: int) -> None:
        hashes, size = sequence.hashes, self.block_size
        for index in range(len(hashes), num_full):
            parent = hashes[-1] if hashes else _root(sequence)
            tokens = sequence.token_ids[index * size : (index + 1) * size]
            hashes.append(blake2b(parent + tokens.tobytes(), digest_size=_DIGEST_BYTES).digest())

    def _share(self, block: int) -> None:
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def _take(self) -> int:
        """A block nobody owns.

        One without a name, else one never used, else the one with the least recently used name.
        """
        if self._free and (self._num_touched == self.num_blocks or self._is_front_nameless()):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
        else:
            block = self._num_touched
            self._num_touched += 1
        self._references[block] = 1
        return block

    def _is_front_nameless(self) -> bool:
        return self._names[next(iter(self._free))] is None

    def _name(self, block: int, name: bytes) -> None:
        if self._named.setdefault(name, block) == block:
            self._names[block] = name

    def _forget(self, block: int) -> None:
        name = self._names[block]
        if name is not None:
            del self._named[name]
            self._names[block] = None


def _root(sequence: Sequence) -> bytes:
    person = b"rope set %d" % sequence.rope_set
    return blake2b(sequence.salt.encode(), digest_size=_DIGEST_BYTES, person=person).digest()
