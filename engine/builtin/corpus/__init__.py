"""The text the built-in model learns from, all of it written for it here. Knows no tokens."""
