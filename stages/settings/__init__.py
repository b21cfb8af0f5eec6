"""params.yaml: decoded, checked within and across sections, and explained where it is wrong."""
