"""Passes that change number formats: float16, int8, rounded weights."""
