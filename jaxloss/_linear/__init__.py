"""Losses of hidden states times a vocabulary kernel, without the logits in memory."""
