"""One file a data set, and the files that several of them share."""
