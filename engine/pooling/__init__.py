"""The engine that makes vectors and scores: whole sequences in, a vector of each out."""
