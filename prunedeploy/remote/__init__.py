"""Devices over SSH: bundles sent, built and measured there, and what comes back verified here."""
