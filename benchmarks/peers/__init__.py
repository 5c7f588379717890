"""Shared by patterns.py and architectures.py. Only ``ours.py`` imports the package itself:

the peers run in an environment of their own, which has torch and no prunedeploy installed.
"""
