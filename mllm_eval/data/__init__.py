"""Data: snapshots of benchmarks and conversations to train on."""
