"""Sixteen small benchmarks about the world's pictures, each in the schema of the data set it is named after."""
