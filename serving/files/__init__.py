"""Uploaded files: rows in the job database, bytes in the results storage."""
