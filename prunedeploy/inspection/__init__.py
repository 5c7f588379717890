"""What is sparse in a network, and which step comes next."""
