"""The order and the schedule: Prefect flows over the DVC stages."""

from tasks.runtime import settings

settings.apply()  # before the first import of Prefect, which reads its settings then
