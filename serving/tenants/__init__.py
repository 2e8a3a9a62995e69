"""Who the callers are, which concepts each of them sees, and how all of a tenant is erased."""
