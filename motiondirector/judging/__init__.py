"""What a motion is worth: contenders trained or found, judged by prompts and metrics; the paper's sets."""
