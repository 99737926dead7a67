"""A small language model whose loss never holds the logits. Run: `python -m examples.language_model`."""
