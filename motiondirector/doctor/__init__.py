"""`motiondirector doctor`: tries what the product needs on this machine."""
