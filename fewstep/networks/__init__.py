"""Networks as plain torch modules; `fewstep.models` has their settings."""
