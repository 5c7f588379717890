"""Device bundles: what a machine that is not at hand needs to build and to measure engines."""
