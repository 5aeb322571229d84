"""The processing-in-memory model: hardware, mapping, cost and datapath."""
