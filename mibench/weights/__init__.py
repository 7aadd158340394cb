"""Trained weights: their cards, reading and saving them, training and importing them."""
