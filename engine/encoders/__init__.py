"""Bidirectional encoders: BERT and its relatives. Torch-free but for the layers and the frame."""
