"""A gate: does a changed classifier leak more than its baseline, by more than is allowed?

``baseline`` (the file that is committed), ``decision`` (tests and verdict), ``output`` (text, JSON, JUnit, Markdown).
"""
