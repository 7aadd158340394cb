"""Defences: what keeps a classifier from giving away its private training images.

One file holds one defence (:class:`mibench.api.Defence`), and its line in ``CATALOGUE["defence"]`` of
:mod:`mibench.targets` gives it the name under which ``mibench train --defence`` applies it. Trained defences act
through :class:`mibench.api.TrainingHooks`; filters (:class:`mibench.api.AnswerFilter`) change what a trained classifier
answers. Settings go onto the card of the weights, so that a result always says what was defended, and how.
"""
