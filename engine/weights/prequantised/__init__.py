"""Safetensors checkpoints of quantised weights: one file a method, which says how it packs them."""
