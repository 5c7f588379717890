"""Scores of units, one file a criterion: larger is more worth keeping."""
