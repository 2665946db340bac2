"""The bench: every loss against what one would otherwise run, checked, then timed."""
