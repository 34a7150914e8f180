"""How a stage runs, whatever it computes. Nothing here shapes a result, and an edit here makes nothing stale.

- ``stage`` is what every stage command goes through: fingerprint, work directory, lock, resume, signals. ``declared`` reads
  what dvc.yaml says of it; ``signals`` and ``bus_error`` end it in time, ``hang`` when a training makes no step. ``work``
  publishes what is finished and removes what is old. ``stage_name`` takes names like ``pretrain@simclr-0`` apart.
  ``ancestors`` finds the ``dvc`` above and tells whether it lives.
- ``params`` reads params.yaml (``strict_yaml``) into the configs of ``ssl_core`` and ``tasks``; ``task_params`` what further
  labelled sets say.
- ``files`` writes whole or not at all and verifies what it reads. ``checkpoint`` keeps a training's state with it. ``locks``
  has the one kind of lock that is used.
- ``recorded`` compares what stages have made with what dvc.lock says of it.
- ``errors`` has the exit codes and the one line that a failure ends with; ``redaction`` takes secrets out of it.
- ``dataset`` and ``saved_encoder`` open what an earlier stage wrote.
- ``device``, ``gpu``, ``cores`` and ``processes``: where a training runs, and with how many processes.
- ``progress`` shows long work. ``settings`` has the settings of the tools that the pipeline drives.

Everything in ``tasks`` and ``flows`` may import this package; it imports nothing of ``tasks`` but itself.
"""
