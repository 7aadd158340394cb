"""Importers of released weights of targets, judges and backbones."""
