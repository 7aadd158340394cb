"""StyleGAN2 as a prior: networks, training, and the importer of released weights."""
