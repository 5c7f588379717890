"""Small exact passes, one a file."""
