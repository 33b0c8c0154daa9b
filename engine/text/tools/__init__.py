"""Tool calls in what a model writes: one reader a format."""
