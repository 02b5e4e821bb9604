"""What runs on a runner machine: no Django, no database, nothing of the API."""
