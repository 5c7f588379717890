"""What the analyses know of each operator: one row of the table each."""
