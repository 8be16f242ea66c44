"""Data: snapshots of benchmarks, and conversations for training."""
