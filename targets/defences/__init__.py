"""Defences: trainings and wrappers that make a classifier give away less of its private training images.

None is implemented yet. One file holds one defence, and its line in ``CATALOGUE["defence"]`` of
:mod:`mibench.targets` gives it the name under which ``mibench list defences`` shows it.

A defence that changes the training (its loss, images, network, optimiser or which weights are trained) is a frozen
dataclass derived from :class:`mibench.api.Recipe`; one that changes the answers of a trained classifier wraps its
network. Either way its settings go onto the card of the weights, so that a result always says what was defended, and
how.
"""
