"""How much work a client may ask for: requests a minute, and at once."""
