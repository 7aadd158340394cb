"""Downloads: the only part of mibench that touches a network, and only for ``mibench fetch``."""
