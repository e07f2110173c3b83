"""Merge several pre-trained language models into one student by offline distillation."""

__version__ = "0.1.0"
