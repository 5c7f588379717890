"""Errors, records, files, statistics and ELF files, which all other layers use."""
