"""People, and the keys that they come with."""

ADMIN = "admin"  # who has the key of the settings; what was there before there were people belongs to them
