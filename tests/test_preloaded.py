"""Commands in processes that begin with libraries loaded do what they do elsewhere."""

import os

import preloaded
import pytest
