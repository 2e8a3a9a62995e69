"""The ground floor: object storage, the concept registry, cluster files. Imports no other room."""
