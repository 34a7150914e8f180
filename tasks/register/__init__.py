"""Stage ``register``: encoders into MLflow's registry, so that they load without this project.

``__main__`` is the command. ``registration`` says what to register and which alias names what; ``export`` turns an encoder
into files that need no code of ours; ``registry`` talks to MLflow. ``tasks.embed`` uses ``registry`` too.
"""
