"""The schema's history. Only ever add: SQLite rebuilds a table to alter it, and drops its indexes and triggers with it."""
