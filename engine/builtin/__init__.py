"""The built-in model: a tiny chat model, the text it learned from, and its training."""
