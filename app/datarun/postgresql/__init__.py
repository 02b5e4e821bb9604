"""Django's PostgreSQL, without a query to the server before each request."""
