"""Cambrian-style VQA evaluation of frozen vision encoders."""
