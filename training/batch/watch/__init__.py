"""Observes a batch: screens, logs, evaluation of published versions."""
