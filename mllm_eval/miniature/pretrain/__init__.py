"""Makes the miniature's weights from nothing: a tokenizer, a LLaMA, and encoders by two objectives."""
