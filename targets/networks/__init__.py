"""The target classifiers: one file a family."""
