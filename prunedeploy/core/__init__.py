"""What every layer uses: errors, records, files, statistics, ELF files."""
