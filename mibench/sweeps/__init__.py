"""A matrix of runs with one table out: ``mibench sweep SUITE``.

``suite`` reads the file and expands it into cells, ``standing`` says how far each cell is, ``cost`` what is left of it,
``workers`` runs cells in processes, ``sweep`` is the whole of it, ``tables`` writes the result. Nothing is imported
until it is asked for.
"""
