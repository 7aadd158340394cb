"""PLG-MI's class-conditional GAN: networks, pseudo-labels, training."""
