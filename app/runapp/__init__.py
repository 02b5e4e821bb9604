"""The REST API on the master."""
