"""Files, uploads and trainings over HTTP."""
