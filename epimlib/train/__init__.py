"""Networks that learn."""
