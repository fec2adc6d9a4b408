"""What survives a restart: one SQLite database, its migrations, and the SQL for each noun."""
