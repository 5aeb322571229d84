"""Related systems on the same hardware model; each module names the work it follows."""
