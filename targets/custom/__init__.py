"""Somebody's own model as a target: Python code with weights, an ONNX file, a TorchScript file.

``factory`` finds the code of a model, ``outputs`` reads what a network returns, ``network`` is what the three kinds
share, ``module``, ``onnx`` and ``torchscript`` are the kinds, ``importing`` makes weights and a card's arguments of a
file and of what its owner declares.
"""
