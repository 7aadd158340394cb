"""A matrix of runs with one table out: ``mibench sweep SUITE``.

``suite`` reads the file and expands it into cells, ``status`` says how far each cell is, ``estimate`` what is left
of it, ``executors`` run cells, ``sweep`` is the whole of it, ``tables`` writes the result. Nothing is imported
until it is asked for.
"""
