"""The order and the schedule: Prefect flows over the DVC stages."""
