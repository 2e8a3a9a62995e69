"""The study: tests the method's claims on motions and appearances that nothing was tuned on."""
