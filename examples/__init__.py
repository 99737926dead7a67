"""Real data, end to end. Run each by itself from the repository's root: `python -m examples.digits`."""
