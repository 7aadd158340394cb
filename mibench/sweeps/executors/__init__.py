"""Where the cells of a sweep run.

``contract`` says what an executor takes and gives; each registered executor is a file beside it: ``local``, processes
of this machine, and ``ray_cluster``. Which one runs a cell changes no result: the unit of work is the same JSON
everywhere, and the same worker process (``worker``, from outside ``process``) does it.
"""
