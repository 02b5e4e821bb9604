"""The web server: gunicorn, whose few threads that answer requests are not held by slow clients."""
