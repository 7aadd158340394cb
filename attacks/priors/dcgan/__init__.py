"""The DCGAN priors of GMI and KEDMI: networks, training, and the importer of released weights."""
