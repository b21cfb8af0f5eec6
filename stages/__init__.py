"""The stages of the pipeline, one file each; the folders hold what they share.

A stage is VERSION, Config, inputs, output and run. Importing this package checks the interpreter and
sets the environment of numerical libraries, which must happen before torch is imported.
"""

from stages.process import environment

environment.apply()
