"""What a lecturer takes from the library: exam questions whose numbers are drawn and whose keys are computed."""
