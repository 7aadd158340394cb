"""Pages of HTML: of one run, of several beside each other, and an index of runs. Each is one self-contained file."""
