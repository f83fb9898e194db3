"""MLflow as a view of ledgers."""
