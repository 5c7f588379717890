"""The operators' records: what each analysis knows of an operator."""
