"""Runtimes: each builds engines from models for a target, and opens them."""
