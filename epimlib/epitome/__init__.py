"""What an epitome is, and a network as plain data."""
