"""Measures of a model: bits per byte, CORE, chat tasks."""
