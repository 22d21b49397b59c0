"""The systems that --model can name."""
