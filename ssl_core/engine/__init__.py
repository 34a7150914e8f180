"""One training: from uint8 images to an encoder.

In the order in which a training calls them:

1. ``data``: the images, on the device where they fit.
2. ``encoders``: the networks, built from a config and a seed; they give a map for each block.
3. ``augment`` and ``geometry``: views of a batch, made on the device, each image with numbers of its own.
4. ``method``: the contract between a method and the loop. Every file of ``ssl_core/methods`` keeps it.
5. ``train``: the loop. It names no method. ``optim`` has its optimizers and schedules.
6. ``features``: outputs of a network that is looked at and not trained.
7. ``health``: what is watched each epoch without labels: feature spread, effective rank, alignment, uniformity.
8. ``distributed``: the few things that several processes must agree on.

``tasks/pretrain`` runs a training; ``ssl_core/methods`` and ``ssl_core/parts`` build on ``augment``, ``method`` and
``encoders``; ``ssl_core/evaluation`` and ``tasks/evaluate`` read encoders.
"""
