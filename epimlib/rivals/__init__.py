"""What epitomes are compared with."""
