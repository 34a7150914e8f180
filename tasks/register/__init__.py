"""Stage ``register``: encoders into MLflow's registry, so that they load without this project.

``__main__`` is the command. ``registration`` says what to register and which alias names what; ``export`` turns an encoder
into files that need no code of ours, of which ``modeling`` is the trainable module and ``card`` the text; ``registry`` talks
to MLflow. ``tasks.embed`` and ``tasks.encoder`` use ``registry`` too.
"""

from tasks.runtime import signals

signals.watch_command()
