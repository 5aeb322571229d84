"""The processing-in-memory model: hardware, mapping, events and cost. It never imports torch."""
