"""Engines: building, checking and opening them, and the choice of the runtime."""
