"""Tensor parallelism: one model over several processes. See engine/README.md."""
