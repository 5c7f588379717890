"""Measures how sparse a network is, and names the step that comes next."""
