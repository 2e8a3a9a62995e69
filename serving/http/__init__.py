"""The API: routes, bodies, callers and answers over HTTP."""
