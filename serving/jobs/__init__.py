"""Accepted requests in SQL, from `queued` to their end: admission, claims, the dispatcher, webhooks."""
