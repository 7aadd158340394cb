"""Where the cells of a sweep run.

``contract`` says what an executor takes and gives; each executor is a file beside it: ``local``, processes of this
machine. Which one runs a cell changes no result: the unit of work is the same JSON everywhere.
"""
