"""Models of other libraries: what lies in a folder (formats), and how its network is called (adapters).

The network is built again by its own library or from its own class, its weights keep their names below one
prefix, and what is written is a model directory like any other: see fewstep.models.diffusers and
fewstep.models.imported. The text encoders of a pipeline make its conditions (text_encoders, pipelines).
"""
