"""Gives memory back that the C library keeps for later. Knows glibc."""

import ctypes


def trim() -> None:
    """After loading: what passed through its threads' heaps is as large as some tensors.

    Other C libraries have no such function, and keep less.
    """
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
