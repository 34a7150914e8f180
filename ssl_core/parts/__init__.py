"""What methods are built from.

- ``heads``: projectors and predictors.
- ``normalization``: batch normalization that sees a part of a batch, or all processes.
- ``losses``: similarities and the losses that several methods share.
- ``memory``: queues and banks of earlier features.
- ``patches``: tiles of an image for the pretext tasks.
- ``prototypes``: clusters as classes, for PCL.
- ``multicrop``: large and small crops for SwAV and DINO.

A method in ``ssl_core/methods`` takes what it needs. What only one method needs stays in that method's file, unless the file
gets longer than a method should be.
"""
