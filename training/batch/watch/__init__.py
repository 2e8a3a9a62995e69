"""Who is told what a batch does: screens, logs, evaluation of what it publishes."""
