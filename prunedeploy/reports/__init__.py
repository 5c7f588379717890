"""Reports of measurements, in Markdown."""
