"""Example.

Text.
"""

# Prose.

print(1)
